"""Orders filled in from what Python passes, checked."""

from libc.stdint cimport uint8_t, uint32_t

from carp_fast.engine._core cimport Interface, Order
from carp_fast.engine._vhid cimport Address

cdef int fill_interface(Interface* interface, int ifindex, bint up, bytes mac, bytes source,
                        bytes source6, bint forwards6, bint renamed, bint announce) except -1
cdef int demotion_order(Order* order, uint32_t slot, int demotion, str by, bint hard) except -1
cdef void addition(Order* order, uint32_t slot, int operator, int track, bint hard,
                   int maintenance) noexcept
cdef int hand_over_order(Order* order, uint32_t slot, str why) except -1
cdef int fill_address(Address* to, bytes address, uint8_t prefixlen) except -1
