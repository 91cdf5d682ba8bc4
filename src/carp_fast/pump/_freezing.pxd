"""A pump that is frozen: its state is whole, and it neither sends nor reads."""

from libc.stdint cimport int64_t

from carp_fast.engine._state cimport State
from carp_fast.pump._environment cimport PumpState

cdef bint freeze_now(PumpState* pump) noexcept nogil
cdef void stay_frozen(PumpState* pump) noexcept nogil
cdef int freeze(PumpState* pump, bint running, double timeout_s) except -1
cdef int resume(PumpState* pump, bint running) except -1
cdef list marks_of(const PumpState* pump)
cdef int64_t write_state(PumpState* pump, buffer) except -1
cdef object assume_state(PumpState* pump, State state, slots, interfaces)
