"""The interfaces of a simulated machine: their faults, and the orders that follow."""

from libc.stdint cimport int64_t, uint32_t

from carp_fast.engine._core cimport Order
from carp_fast.simulate._network cimport Machine, PendingOrder, World

cdef enum NicFault:
    NIC_DOWN
    NIC_UP
    NIC_GONE
    NIC_BACK
    NIC_RENAMED                 # it exists under another name
    NIC_NAMED                   # it has its name again

cdef bint change_nic(World* world, Machine* machine, uint32_t segment,
                     NicFault fault) noexcept nogil
cdef int64_t interface_value(const Machine* machine, uint32_t segment) noexcept nogil
cdef void obey_interface_order(World* world, Machine* machine, const PendingOrder* pending,
                               Order* order, int64_t now_ns) noexcept nogil
cdef bint has_left(Machine* machine, uint32_t segment) noexcept nogil
