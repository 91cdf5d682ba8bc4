"""The rtnetlink socket of address changes: what its modules share.

The structs are in _netlink.pxd; _changes.pyx sends changes of addresses, _existing.pyx reads the
existing ones, _promotion.pyx sets promote_secondaries. Uses no engine and no clock.
"""

from libc.errno cimport EINTR, ENOBUFS, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

cdef extern from "system.h" nogil:
    int NLM_F_REQUEST
    int NLA_TYPE_MASK
    ssize_t sendto(int fd, const void* data, size_t length, int flags, const void* to,
                   unsigned int tolen)


cdef void begin_request(Netlink* netlink, nlmsghdr* header, size_t length, int kind,
                        int flags) noexcept nogil:
    """Clear a message of `length` bytes and fill in its header, with a number of its own."""
    memset(header, 0, length)
    netlink.sequence += CHANGES
    header.nlmsg_len, header.nlmsg_type = <uint32_t>length, <unsigned short>kind
    header.nlmsg_flags = <unsigned short>(NLM_F_REQUEST | flags)
    header.nlmsg_seq = netlink.sequence


cdef int send_message(Netlink* netlink, const void* data, size_t length) noexcept nogil:
    """Send one or more messages to the kernel; 0, or the errno if it took none of them."""
    cdef int _
    for _ in range(ATTEMPTS):
        if sendto(netlink.fd, data, length, 0, NULL, 0) >= 0:
            return 0
        if errno != EINTR and errno != ENOBUFS:
            break
    return errno


cdef const nlattr* attribute_in(const uint8_t* data, size_t length, int wanted) noexcept nogil:
    """The first attribute of a kind among those in `length` bytes, or NULL."""
    cdef const nlattr* attribute
    cdef size_t at = 0
    while at + sizeof(nlattr) <= length:
        attribute = <const nlattr*>(data + at)
        if attribute.nla_len < sizeof(nlattr) or at + attribute.nla_len > length:
            return NULL
        if attribute.nla_type & NLA_TYPE_MASK == wanted:
            return attribute
        at += (attribute.nla_len + 3) & ~3
    return NULL
