"""The end of a turn after which a state is handed over, and the beginning of one that goes on."""

from libc.stdint cimport int64_t

from carp_fast.engine._tables cimport Pumped, RECEIVERS, ReceiverState
from carp_fast.pump._turn cimport Turn

cdef bint turn_is_drained(const Turn* turn) noexcept nogil
cdef void turn_put_back(Turn* turn) noexcept nogil
cdef void turn_export(const Turn* turn, Pumped* pumped) noexcept nogil
cdef void turn_assume(Turn* turn, const Pumped* pumped, const ReceiverState* here) noexcept nogil
