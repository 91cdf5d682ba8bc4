"""Changes of addresses: encoded from templates, sent in batches, acknowledged.

An IPv4 address may also be held by a local route: `local A/32 dev IF table local proto OURS scope
host`. Where an interface has thousands of addresses, the kernel adds a route much faster.

pyroute2 builds one message of each kind (net/addresses.py); only the interface, the address, the
prefix length and the sequence number are written into copies of it here. Changes are synchronous
in the kernel: the answers are ready when sendto returns. Only failed requests and the last one of a
batch are acknowledged. If that leaves the outcome of a change or the origin of an address open, the
addresses of the interface are read from the kernel. Uses no engine and no clock.
"""

from libc.errno cimport EADDRNOTAVAIL, EAGAIN, EEXIST, EINTR, ENOBUFS, ENODEV, EPIPE, ESRCH, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from carp_fast.pump._existing cimport address_size, netlink_whose
from carp_fast.pump._netlink cimport (
    ACKNOWLEDGEMENT_ROOM, Change, CHANGES, Found, FOUND_FOREIGN, FOUND_NONE, FOUND_OURS,
    FOUND_UNKNOWN, ifaddrmsg, MESSAGE_ROOM, Netlink, nlattr, nlmsgerr, nlmsghdr, OWN_PROTOCOL,
    rtmsg, send_message, Template)
from carp_fast.pump._promotion cimport keep_secondaries
from carp_fast.pump._socket cimport iovec, mmsghdr

cdef extern from "system.h" nogil:
    struct timespec:
        pass
    int AF_INET, MSG_DONTWAIT, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NLMSG_ERROR
    int RTM_NEWROUTE, RTM_DELROUTE, RT_TABLE_LOCAL, RT_SCOPE_HOST, RTN_LOCAL, RTA_DST, RTA_OIF
    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)


cdef struct RouteRequest:       # RTM_NEWROUTE, RTM_DELROUTE
    nlmsghdr header
    rtmsg body
    nlattr destination
    uint8_t address[4]
    nlattr device
    uint32_t ifindex


cdef int netlink_template(Template* template, bytes encoded, bytes address) except -1:
    """Store an encoded RTM_NEWADDR or RTM_DELADDR for `address` as the template.

    Finds the offsets of the address; raises ValueError if it does not contain it.
    """
    if len(encoded) > MESSAGE_ROOM:
        raise ValueError(f"address message of {len(encoded)} bytes, at most {MESSAGE_ROOM}")
    first = encoded.find(address)
    second = encoded.find(address, first + 1)
    if first < sizeof(nlmsghdr) + sizeof(ifaddrmsg):
        raise ValueError("address message does not contain its address")
    memcpy(template.bytes, <const char*>encoded, len(encoded))
    template.length = <uint32_t>len(encoded)
    template.address_at = <uint32_t>first
    template.local_at = <uint32_t>second if second > 0 else 0
    return 0


cdef void netlink_put(Netlink* netlink, bint added, int32_t ifindex, uint8_t family,
                      bint preferred, uint8_t prefixlen, const uint8_t* address) noexcept nogil:
    """Add a change to the batch. The caller keeps within CHANGES and resets `count` and `used`."""
    cdef Template* template = &netlink.removing[family == 6]
    if added:
        template = &netlink.adding[0 if family == 4 else 2 if preferred else 1]
    cdef uint8_t* out = netlink.out + netlink.used
    cdef uint32_t size = address_size(family)
    cdef ifaddrmsg* body = <ifaddrmsg*>(out + sizeof(nlmsghdr))
    memcpy(out, template.bytes, template.length)
    body.ifa_prefixlen = prefixlen
    body.ifa_index = <unsigned int>ifindex
    memcpy(out + template.address_at, address, size)
    if template.local_at:
        memcpy(out + template.local_at, address, size)
    note_change(netlink, added, ifindex, family, prefixlen, address, template.length)


cdef void netlink_put_route(Netlink* netlink, bint added, int32_t ifindex,
                            const uint8_t* address) noexcept nogil:
    """Add a change of the local route to an IPv4 address; otherwise as netlink_put().

    Table, type, device and protocol are part of a removal, so it removes no route but ours.
    """
    cdef RouteRequest* request = <RouteRequest*>(netlink.out + netlink.used)
    memset(request, 0, sizeof(RouteRequest))
    request.header.nlmsg_len = sizeof(RouteRequest)
    request.header.nlmsg_type = <unsigned short>(RTM_NEWROUTE if added else RTM_DELROUTE)
    request.header.nlmsg_flags = <unsigned short>(
        NLM_F_REQUEST | (NLM_F_CREATE | NLM_F_EXCL if added else 0))
    request.body.rtm_family, request.body.rtm_dst_len = <unsigned char>AF_INET, 32
    request.body.rtm_table = <unsigned char>RT_TABLE_LOCAL
    request.body.rtm_protocol = OWN_PROTOCOL
    request.body.rtm_scope = <unsigned char>RT_SCOPE_HOST
    request.body.rtm_type = <unsigned char>RTN_LOCAL
    request.destination.nla_type = <unsigned short>RTA_DST
    request.destination.nla_len = sizeof(nlattr) + 4
    memcpy(request.address, address, 4)
    request.device.nla_type, request.device.nla_len = <unsigned short>RTA_OIF, sizeof(nlattr) + 4
    request.ifindex = <uint32_t>ifindex
    note_change(netlink, added, ifindex, 4, 32, address, sizeof(RouteRequest))
    netlink.changes[netlink.count - 1].routed = 1


cdef void note_change(Netlink* netlink, bint added, int32_t ifindex, uint8_t family,
                      uint8_t prefixlen, const uint8_t* address, uint32_t length) noexcept nogil:
    """Note the change whose message of `length` bytes was added to the batch."""
    cdef Change* change = &netlink.changes[netlink.count]
    memset(change, 0, sizeof(Change))
    change.added, change.ifindex = added, ifindex
    change.family, change.prefixlen = family, prefixlen
    memcpy(change.address, address, address_size(family))
    netlink.offsets[netlink.count] = netlink.used
    netlink.count += 1
    netlink.used += length
    netlink.offsets[netlink.count] = netlink.used


cdef int read_acknowledgements(Netlink* netlink) noexcept nogil:
    """Set the outcome of every change that is acknowledged; 0, or the errno that ended it."""
    cdef mmsghdr messages[CHANGES]
    cdef iovec vectors[CHANGES]
    cdef nlmsghdr* header
    cdef Change* change
    cdef int i, count
    memset(messages, 0, sizeof(messages))
    for i in range(CHANGES):
        vectors[i].iov_base = netlink.answers[i]
        vectors[i].iov_len = ACKNOWLEDGEMENT_ROOM
        messages[i].msg_hdr.msg_iov = &vectors[i]
        messages[i].msg_hdr.msg_iovlen = 1
    while True:
        count = recvmmsg(netlink.fd, messages, CHANGES, MSG_DONTWAIT, NULL)
        if count < 0:
            if errno == EINTR:
                continue
            return errno
        for i in range(count):
            if messages[i].msg_len == 0:
                return EPIPE                        # the other end is closed
            header = <nlmsghdr*>netlink.answers[i]
            if messages[i].msg_len < sizeof(nlmsghdr) or header.nlmsg_type != NLMSG_ERROR:
                continue
            if header.nlmsg_seq - netlink.sequence >= netlink.count:
                continue                            # of a batch that was given up
            change = &netlink.changes[header.nlmsg_seq - netlink.sequence]
            change.error = -(<nlmsgerr*>(netlink.answers[i] + sizeof(nlmsghdr))).error
            change.done = 1
        if count < CHANGES:
            return 0


cdef void send_changes(Netlink* netlink) noexcept nogil:
    """Send the whole batch in one call: the kernel takes all of it, or none."""
    cdef nlmsghdr* header
    cdef uint32_t i
    cdef int error
    netlink.sequence += CHANGES                     # no other answer has these numbers
    for i in range(netlink.count):
        header = <nlmsghdr*>(netlink.out + netlink.offsets[i])
        header.nlmsg_seq = netlink.sequence + i
        if i == netlink.count - 1:
            header.nlmsg_flags |= NLM_F_ACK
        else:
            header.nlmsg_flags &= ~NLM_F_ACK
    error = send_message(netlink, netlink.out, netlink.used)
    for i in range(netlink.count):
        netlink.changes[i].sent = error == 0
        netlink.changes[i].error = error


cdef inline bint takes_others(const Change* change) noexcept nogil:
    """Whether the kernel may remove other addresses with this one."""
    return not change.added and change.family == 4 and not change.routed


cdef void netlink_carry_out(Netlink* netlink) noexcept nogil:
    """Send the batch and read its outcome: every change has its `error` afterwards.

    Only the last change requests an answer: if that came, and none was lost, all changes without an
    answer were carried out. If answers are missing, or one leaves the origin of an address open,
    the kernel is asked for the existing addresses. EEXIST then means that another program has added
    it; an address with our mark has no error, and `was_ours`. An unknown outcome has the errno
    EAGAIN.
    """
    cdef uint32_t i
    cdef int error = ENOBUFS
    cdef bint lost = False
    netlink.existing.ifindex = netlink.existing.routes = 0
    netlink.promoted_count = 0
    for i in range(netlink.count):
        if takes_others(&netlink.changes[i]) and (
                i == 0 or netlink.changes[i].ifindex != netlink.changes[i - 1].ifindex
                or not takes_others(&netlink.changes[i - 1])):
            keep_secondaries(netlink, netlink.changes[i].ifindex)
    send_changes(netlink)
    while error == ENOBUFS:                         # reported once per overrun, then go on
        error = read_acknowledgements(netlink)
        lost |= error == ENOBUFS
    if not lost and netlink.changes[netlink.count - 1].done:
        for i in range(netlink.count):
            netlink.changes[i].done = 1
    for i in range(netlink.count):
        if netlink.changes[i].sent:
            settle(netlink, &netlink.changes[i])


cdef void settle(Netlink* netlink, Change* change) noexcept nogil:
    """Determine the outcome of a change that was sent, if its answer is not enough."""
    cdef Found found
    if change.routed and change.error == ESRCH:
        change.error = EADDRNOTAVAIL
    if change.done and (change.error == 0 or change.error == ENODEV
                        or change.error == (0 if change.added else EADDRNOTAVAIL)):
        return
    found = netlink_whose(netlink, change)
    if change.routed and found == FOUND_NONE and change.done and change.error == EEXIST:
        return                                  # an address, maybe elsewhere, or a foreign route
    if not change.done:
        change.error = EAGAIN
    if found == FOUND_UNKNOWN:
        if change.error == EEXIST:
            change.error = EAGAIN                   # its origin is unknown
    elif change.added and found == FOUND_OURS:
        change.error, change.was_ours = 0, 1
    elif change.added and found != FOUND_NONE:
        change.error = EEXIST
    elif change.added:
        if change.error == EEXIST:
            change.error = EAGAIN                   # it has been removed since
    elif found == FOUND_NONE or found == FOUND_FOREIGN:
        change.error = 0                            # ours does not exist any more


cdef list netlink_remove(Netlink* netlink, list rest):
    """Remove addresses, [(ifindex, 4 or 16 bytes, prefixlen or None: a route)]: their errnos."""
    cdef list errors = []
    cdef bytes address
    cdef uint32_t i
    while rest:
        netlink.count = netlink.used = 0
        for ifindex, address, prefixlen in rest[:CHANGES]:
            family = 4 if len(address) == 4 else 6
            if prefixlen is None:
                netlink_put_route(netlink, False, ifindex, address)
                continue
            netlink_put(netlink, False, ifindex, family, False, prefixlen, address)
        with nogil:
            netlink_carry_out(netlink)
        for i in range(netlink.count):
            errors.append(netlink.changes[i].error)
        rest = rest[CHANGES:]
    return errors
