"""Orders of Python to the engine: add, change and remove hosts, interfaces, snapshots."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._core cimport Core, Order

cdef void obey(Core* core, const Order* order, int64_t now_ns) noexcept nogil
cdef bint assume_address(Core* core, uint32_t slot, const uint8_t* address, uint8_t family,
                         uint8_t flags) noexcept nogil
