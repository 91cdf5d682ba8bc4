"""The addresses of an interface as the kernel has them: read by dumps, looked up by address."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from carp_fast.pump._netlink cimport Change, Existing, Found, Netlink

cdef inline uint32_t address_size(uint8_t family) noexcept nogil:
    return 16 if family == 6 else 4


cdef Found netlink_whose(Netlink* netlink, const Change* change) noexcept nogil
cdef int netlink_look(Netlink* netlink, Existing* existing, int32_t ifindex, uint32_t part,
                      uint32_t parts, bint routes) noexcept nogil
cdef Found netlink_found_route(const Existing* existing, const uint8_t* address) noexcept nogil
cdef Found netlink_found(const Netlink* netlink, const Existing* existing, uint8_t family,
                         uint8_t prefixlen, const uint8_t* address) noexcept nogil
