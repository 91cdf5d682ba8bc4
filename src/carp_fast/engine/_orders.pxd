"""Orders of Python to the engine: add, change and remove hosts, interfaces, snapshots."""

from libc.stdint cimport int64_t

from carp_fast.engine._core cimport Core, Order
from carp_fast.engine._vhid cimport VirtualHost

cdef void obey(Core* core, const Order* order, int64_t now_ns) noexcept nogil
cdef void build_frames(Core* core, VirtualHost* host) noexcept nogil
