"""promote_secondaries of an interface, set over netlink before an IPv4 address is removed.

Uses no engine and no clock.
"""

from libc.errno cimport EINTR, EPIPE, EPROTO, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t

from carp_fast.pump._netlink cimport (
    attribute_in, begin_request, DUMP_ROOM, Netlink, nlattr, nlmsghdr, send_message)

cdef extern from "system.h" nogil:
    struct ifinfomsg:
        int ifi_index
    int AF_INET, MSG_DONTWAIT, NLM_F_ACK, NLMSG_ERROR
    int RTM_NEWLINK, RTM_GETLINK, RTM_SETLINK
    int IFLA_AF_SPEC, IFLA_INET_CONF, IFLA_EXT_MASK
    int RTEXT_FILTER_SKIP_STATS, NLA_F_NESTED, IPV4_DEVCONF_PROMOTE_SECONDARIES
    ssize_t recv(int fd, void* data, size_t length, int flags)


cdef struct LinkQuery:          # RTM_GETLINK
    nlmsghdr header
    ifinfomsg link
    nlattr mask
    uint32_t value


cdef struct LinkRequest:        # RTM_SETLINK of promote_secondaries
    nlmsghdr header
    ifinfomsg link
    nlattr outer
    nlattr family
    nlattr conf
    nlattr promote
    uint32_t value


cdef void keep_secondaries(Netlink* netlink, int32_t ifindex) noexcept nogil:
    """Make sure that removing an IPv4 address of this interface removes no other one.

    Without promote_secondaries the kernel removes the secondaries of a primary address, ours and
    the machine's own. It may have been reset since the start, and /proc/sys may be read-only: so it
    is set over netlink. `promoted` and `promote_errors` have the results.
    """
    cdef LinkRequest request
    cdef int error, value
    error = read_promotion(netlink, ifindex, &value)
    if error or value:
        return                                      # the interface is gone, as its addresses are
    begin_request(netlink, &request.header, sizeof(request), RTM_SETLINK, NLM_F_ACK)
    request.link.ifi_index = ifindex
    request.outer.nla_type = <unsigned short>(IFLA_AF_SPEC | NLA_F_NESTED)
    request.outer.nla_len = 4 * sizeof(nlattr) + 4
    request.family.nla_type = <unsigned short>(AF_INET | NLA_F_NESTED)
    request.family.nla_len = 3 * sizeof(nlattr) + 4
    request.conf.nla_type = <unsigned short>(IFLA_INET_CONF | NLA_F_NESTED)
    request.conf.nla_len = 2 * sizeof(nlattr) + 4
    request.promote.nla_type = <unsigned short>IPV4_DEVCONF_PROMOTE_SECONDARIES
    request.promote.nla_len = sizeof(nlattr) + 4
    request.value = 1
    error = send_message(netlink, &request, sizeof(request))
    if not error:
        error = read_answer(netlink, NULL)
    netlink.promoted[netlink.promoted_count] = ifindex
    netlink.promote_errors[netlink.promoted_count] = error
    netlink.promoted_count += 1


cdef int read_promotion(Netlink* netlink, int32_t ifindex, int* value) noexcept nogil:
    """The interface's own promote_secondaries; 0 or an errno."""
    cdef LinkQuery request
    cdef int error
    begin_request(netlink, &request.header, sizeof(request), RTM_GETLINK, 0)
    request.link.ifi_index = ifindex
    request.mask.nla_type = <unsigned short>IFLA_EXT_MASK
    request.mask.nla_len = sizeof(nlattr) + 4
    request.value = <uint32_t>RTEXT_FILTER_SKIP_STATS
    error = send_message(netlink, &request, sizeof(request))
    return read_answer(netlink, value) if not error else error


cdef int read_answer(Netlink* netlink, int* promotes) noexcept nogil:
    """Read the answer to the last message sent: 0 or an errno.

    `promotes`, unless NULL: promote_secondaries according to a RTM_NEWLINK.
    """
    cdef ssize_t length
    cdef const nlmsghdr* header = <const nlmsghdr*>netlink.dump
    while True:
        length = recv(netlink.fd, netlink.dump, DUMP_ROOM, MSG_DONTWAIT)
        if length < 0:
            if errno == EINTR:
                continue
            return errno
        if length == 0:
            return EPIPE                            # the other end is closed
        if length < <ssize_t>(sizeof(nlmsghdr) + 4) or header.nlmsg_seq != netlink.sequence:
            continue
        if header.nlmsg_type == NLMSG_ERROR:
            return -(<const int*>(header + 1))[0]
        if header.nlmsg_type == RTM_NEWLINK and promotes != NULL:
            return find_promotion(header, <size_t>length, promotes)


cdef int find_promotion(const nlmsghdr* header, size_t length, int* value) noexcept nogil:
    """Read promote_secondaries from a RTM_NEWLINK; EPROTO if it is missing."""
    cdef size_t skip = sizeof(nlmsghdr) + sizeof(ifinfomsg)
    cdef const nlattr* found
    cdef const uint8_t* data = <const uint8_t*>header + skip
    cdef int[3] path
    cdef int depth
    path[0], path[1], path[2] = IFLA_AF_SPEC, AF_INET, IFLA_INET_CONF
    if header.nlmsg_len < skip or header.nlmsg_len > length:
        return EPROTO
    length = header.nlmsg_len - skip
    for depth in range(3):
        found = attribute_in(data, length, path[depth])
        if found == NULL:
            return EPROTO
        data, length = <const uint8_t*>(found + 1), found.nla_len - sizeof(nlattr)
    if length < <size_t>IPV4_DEVCONF_PROMOTE_SECONDARIES * 4:
        return EPROTO
    value[0] = (<const int32_t*>data)[IPV4_DEVCONF_PROMOTE_SECONDARIES - 1]
    return 0
