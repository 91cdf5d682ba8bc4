"""What Python orders of the engine: hosts added, changed and removed, interfaces, snapshots."""

from libc.stdint cimport int64_t

from carp_fast._core cimport Core, Order

cdef void obey(Core* core, const Order* order, int64_t now_ns) noexcept nogil
