"""A virtual host that continues from the recorded state of another."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._core cimport Core
from carp_fast.engine._fields cimport Checkpoint

cdef void assume(Core* core, uint32_t slot, const Checkpoint* was, int64_t now_ns) noexcept nogil
cdef bint assume_address(Core* core, uint32_t slot, const uint8_t* address, uint8_t family,
                         uint8_t flags) noexcept nogil
