"""The engine as a Python class: orders, reports, status."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._core cimport Core, Interface, Order
from carp_fast.engine._vhid cimport Address

cdef class Engine:
    cdef Core core
    cdef list asked             # changes without an answer: (slot, which, address, added, struct)
    cdef give(self, uint8_t kind, uint32_t slot, int64_t value, void* pointer, int64_t now_ns)
    cdef note_sent(self, uint32_t slot, errors, int64_t now_ns)
    cdef ask_for_changes(self, uint32_t slot, list actions)
    cdef list announcement(self, uint32_t slot)
    cdef uint32_t announced_frames(self, uint32_t slot)
    cdef used(self, uint32_t slot)

cdef int fill_interface(Interface* interface, int ifindex, bint up, bytes mac, bytes source,
                        bytes source6, bint forwards6, bint renamed, bint announce) except -1
cdef int demotion_order(Order* order, uint32_t slot, int demotion, str by, bint hard) except -1
cdef void addition(Order* order, uint32_t slot, int operator, int track, bint hard,
                   int maintenance) noexcept
cdef int hand_over_order(Order* order, uint32_t slot, str why) except -1
cdef int fill_address(Address* to, bytes address, uint8_t prefixlen) except -1
