"""Changes of addresses over rtnetlink: encoded from templates, sent in batches, acknowledged."""

from libc.stdint cimport int32_t, uint8_t

from carp_fast.pump._netlink cimport Netlink, Template

cdef void netlink_put(Netlink* netlink, bint added, int32_t ifindex, uint8_t family,
                      bint preferred, uint8_t prefixlen, const uint8_t* address) noexcept nogil
cdef void netlink_put_route(Netlink* netlink, bint added, int32_t ifindex,
                            const uint8_t* address) noexcept nogil
cdef void netlink_carry_out(Netlink* netlink) noexcept nogil
cdef int netlink_template(Template* template, bytes encoded, bytes address) except -1
cdef list netlink_remove(Netlink* netlink, list rest)
