"""Address changes over rtnetlink: encoded from templates, sent in batches, acknowledged.

pyroute2 builds one message of each kind (net/addresses.py); only the interface, the address, the
prefix length and the sequence number are written into copies of it here. Changes are synchronous
in the kernel: the answers are ready when sendto returns. Only failed requests and the last one of a
batch are acknowledged. If that leaves the outcome of a change or the origin of an address open, the
addresses of the interface are read from the kernel. Uses no engine and no clock.
"""

from libc.errno cimport (
    E2BIG, EADDRNOTAVAIL, EAGAIN, EBUSY, EEXIST, EINTR, ENOBUFS, ENODEV, EPROTO, errno)
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from carp_fast.pump._socket cimport iovec, mmsghdr

cdef extern from "system.h" nogil:
    struct sockaddr_nl:
        unsigned short nl_family
    struct nlmsghdr:
        uint32_t nlmsg_len
        unsigned short nlmsg_type
        unsigned short nlmsg_flags
        uint32_t nlmsg_seq
    struct nlmsgerr:
        int error
        nlmsghdr msg
    struct nlattr:
        unsigned short nla_len
        unsigned short nla_type
    struct ifaddrmsg:
        unsigned char ifa_family
        unsigned char ifa_prefixlen
        unsigned int ifa_index
    struct ifinfomsg:
        int ifi_index
    struct timespec:
        pass
    int AF_INET, AF_INET6, MSG_DONTWAIT
    int NLM_F_ACK, NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_ERROR, NLMSG_DONE
    int RTM_NEWADDR, RTM_GETADDR, RTM_NEWLINK, RTM_GETLINK, RTM_SETLINK
    int IFA_ADDRESS, IFA_LOCAL, IFLA_AF_SPEC, IFLA_INET_CONF, IFLA_EXT_MASK
    int RTEXT_FILTER_SKIP_STATS, NLA_F_NESTED, NLA_TYPE_MASK, IPV4_DEVCONF_PROMOTE_SECONDARIES
    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)
    ssize_t recv(int fd, void* data, size_t length, int flags)
    ssize_t sendto(int fd, const void* data, size_t length, int flags, const void* to,
                   unsigned int tolen)

cdef enum:
    ATTEMPTS = 3                # to send a message, or to finish a look uninterrupted
    IFA_PROTO_TYPE = 11         # of an attribute; headers before Linux 5.18 do not define it
    OWN_PROTOCOL = 112          # our value of it, as in net/interfaces.py


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


cdef struct AddressRequest:     # RTM_GETADDR
    nlmsghdr header
    ifaddrmsg body


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


cdef inline uint32_t address_size(uint8_t family) noexcept nogil:
    return 16 if family == 6 else 4


cdef void netlink_put(Netlink* netlink, bint added, int32_t ifindex, uint8_t family,
                      bint preferred, uint8_t prefixlen, const uint8_t* address) noexcept nogil:
    """Add a change to the batch. The caller keeps within CHANGES and resets `count` and `used`."""
    cdef Template* template = &netlink.removing[family == 6]
    if added:
        template = &netlink.adding[0 if family == 4 else 2 if preferred else 1]
    cdef uint8_t* out = netlink.out + netlink.used
    cdef uint32_t size = address_size(family)
    cdef ifaddrmsg* body = <ifaddrmsg*>(out + sizeof(nlmsghdr))
    cdef Change* change = &netlink.changes[netlink.count]
    memcpy(out, template.bytes, template.length)
    body.ifa_prefixlen = prefixlen
    body.ifa_index = <unsigned int>ifindex
    memcpy(out + template.address_at, address, size)
    if template.local_at:
        memcpy(out + template.local_at, address, size)
    memset(change, 0, sizeof(Change))
    change.added, change.ifindex = added, ifindex
    change.family, change.prefixlen = family, prefixlen
    memcpy(change.address, address, size)
    netlink.offsets[netlink.count] = netlink.used
    netlink.count += 1
    netlink.used += template.length
    netlink.offsets[netlink.count] = netlink.used


cdef int send_message(Netlink* netlink, const void* data, size_t length) noexcept nogil:
    """Send one or more messages to the kernel; 0, or the errno if it took none of them."""
    cdef int _
    for _ in range(ATTEMPTS):
        if sendto(netlink.fd, data, length, 0, NULL, 0) >= 0:
            return 0
        if errno != EINTR and errno != ENOBUFS:
            break
    return errno


# ------------------------------------------------------------------------------------- changes

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
    netlink.existing.ifindex = 0
    netlink.promoted_count = 0
    for i in range(netlink.count):
        if not netlink.changes[i].added and netlink.changes[i].family == 4 and (
                i == 0 or netlink.changes[i].ifindex != netlink.changes[i - 1].ifindex
                or netlink.changes[i - 1].added):
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
    if change.done and (change.error == 0 or change.error == ENODEV
                        or change.error == (0 if change.added else EADDRNOTAVAIL)):
        return
    found = netlink_whose(netlink, change.ifindex, change.family, change.prefixlen,
                          change.address)
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


# --------------------------------------------------------------------------- existing addresses

cdef inline uint32_t address_hash(uint8_t family, uint8_t prefixlen,
                                  const uint8_t* address) noexcept nogil:
    """The prefix length as part of the key: the kernel's IPv4 addresses have it, IPv6 ones not."""
    cdef uint64_t x = family if family == 6 else <uint64_t>prefixlen << 8 | family
    cdef uint32_t i
    for i in range(address_size(family)):
        x = (x ^ address[i]) * <uint64_t>0x100000001b3ULL
    return <uint32_t>(x ^ x >> 32)


cdef uint32_t found_place(const Existing* existing, uint8_t family, uint8_t prefixlen,
                          const uint8_t* address) noexcept nogil:
    """The place of an address among the results of the last look, or a free one."""
    cdef uint32_t at = address_hash(family, prefixlen, address) & (FOUND_ROOM - 1)
    cdef const FoundAddress* found = &existing.found[at]
    while found.look == existing.look and not (
            found.family == family and (family == 6 or found.prefixlen == prefixlen)
            and memcmp(found.bytes, address, address_size(family)) == 0):
        at = (at + 1) & (FOUND_ROOM - 1)
        found = &existing.found[at]
    return at


cdef inline uint32_t part_of(uint8_t family, uint8_t prefixlen, const uint8_t* address,
                             uint32_t parts) noexcept nogil:
    return (address_hash(family, prefixlen, address) >> 16) % parts


cdef Found netlink_found(const Netlink* netlink, const Existing* existing, uint8_t family,
                         uint8_t prefixlen, const uint8_t* address) noexcept nogil:
    """The result of a look for an address of its interface. Reads `existing` alone."""
    cdef const FoundAddress* found
    if not existing.ifindex or part_of(family, prefixlen, address,
                                       existing.parts) != existing.part:
        return FOUND_UNKNOWN
    found = &existing.found[found_place(existing, family, prefixlen, address)]
    if found.look != existing.look:
        return FOUND_NONE
    if not netlink.marks:
        return FOUND_UNMARKED
    return FOUND_OURS if found.marked and found.prefixlen == prefixlen else FOUND_FOREIGN


cdef Found netlink_whose(Netlink* netlink, int32_t ifindex, uint8_t family, uint8_t prefixlen,
                         const uint8_t* address) noexcept nogil:
    """The origin of an address; looks at its interface, unless this batch did so last."""
    cdef Existing* existing = &netlink.existing
    cdef Found found = FOUND_UNKNOWN
    cdef uint32_t parts = 1
    cdef int error = E2BIG
    if existing.ifindex == ifindex:
        found = netlink_found(netlink, existing, family, prefixlen, address)
        parts = existing.parts
    while found == FOUND_UNKNOWN and error == E2BIG and parts <= LOOK_PARTS:
        error = netlink_look(netlink, existing, ifindex,
                             part_of(family, prefixlen, address, parts), parts)
        if error == ENODEV:
            return FOUND_NONE
        if not error:
            found = netlink_found(netlink, existing, family, prefixlen, address)
        parts *= 2
    return found


cdef int netlink_look(Netlink* netlink, Existing* existing, int32_t ifindex, uint32_t part,
                      uint32_t parts) noexcept nogil:
    """Read an interface's addresses from the kernel, and keep those of one of `parts` parts.

    0 or an errno; E2BIG if they need more than half of FOUND_ROOM: more parts are needed.
    """
    cdef int _, error = EAGAIN
    for _ in range(ATTEMPTS):
        existing.look += 1
        existing.part, existing.parts = part, parts
        error = ask_for_addresses(netlink, ifindex)
        if not error:
            error = read_addresses(netlink, existing, ifindex)
        if error != EAGAIN and error != EBUSY:
            break
    existing.ifindex = ifindex if not error else 0
    return error


cdef int ask_for_addresses(Netlink* netlink, int32_t ifindex) noexcept nogil:
    cdef AddressRequest request
    memset(&request, 0, sizeof(request))
    netlink.sequence += CHANGES
    request.header.nlmsg_len = sizeof(request)
    request.header.nlmsg_type = <unsigned short>RTM_GETADDR
    request.header.nlmsg_flags = <unsigned short>(NLM_F_REQUEST | NLM_F_DUMP)
    request.header.nlmsg_seq = netlink.sequence
    request.body.ifa_index = <unsigned int>ifindex
    return send_message(netlink, &request, sizeof(request))


cdef int read_addresses(Netlink* netlink, Existing* existing, int32_t ifindex) noexcept nogil:
    """Read a dump to its end, even after an error, since the next one cannot begin before.

    0 or an errno: EAGAIN if addresses changed meanwhile, or a message was lost.
    """
    cdef ssize_t length
    cdef size_t at
    cdef const nlmsghdr* header
    cdef uint32_t kept = 0
    cdef int error = 0
    while True:
        length = recv(netlink.fd, netlink.dump, DUMP_ROOM, MSG_DONTWAIT)
        if length < 0:
            if errno == EINTR:
                continue
            if errno != ENOBUFS:
                return errno                        # EAGAIN: the end is missing
            error = EAGAIN
            continue
        at = 0
        while at + sizeof(nlmsghdr) <= <size_t>length:
            header = <const nlmsghdr*>(netlink.dump + at)
            if header.nlmsg_len < sizeof(nlmsghdr) or at + header.nlmsg_len > <size_t>length:
                break
            if header.nlmsg_seq == netlink.sequence:
                if header.nlmsg_flags & NLM_F_DUMP_INTR:
                    error = EAGAIN
                if header.nlmsg_type == NLMSG_DONE or header.nlmsg_type == NLMSG_ERROR:
                    if header.nlmsg_len >= sizeof(nlmsghdr) + 4 and (<const int*>(header + 1))[0]:
                        return -(<const int*>(header + 1))[0]
                    return error
                if header.nlmsg_type == RTM_NEWADDR and not error:
                    kept += keep_address(existing, ifindex, header)
                    if kept > FOUND_ROOM // 2:
                        error = E2BIG
            at += (header.nlmsg_len + 3) & ~<uint32_t>3


cdef uint32_t keep_address(Existing* existing, int32_t ifindex,
                           const nlmsghdr* header) noexcept nogil:
    """Keep one address of a dump; the number kept."""
    cdef const ifaddrmsg* body = <const ifaddrmsg*>(header + 1)
    cdef size_t at = sizeof(nlmsghdr) + sizeof(ifaddrmsg)
    cdef const nlattr* attribute
    cdef const uint8_t* address = NULL
    cdef FoundAddress* place
    cdef uint8_t family, marked = 0
    cdef int kind
    if header.nlmsg_len < at or <int32_t>body.ifa_index != ifindex:
        return 0                                    # an old kernel dumps all interfaces
    if body.ifa_family != AF_INET and body.ifa_family != AF_INET6:
        return 0
    family = 4 if body.ifa_family == AF_INET else 6
    while at + sizeof(nlattr) <= header.nlmsg_len:
        attribute = <const nlattr*>(<const uint8_t*>header + at)
        if attribute.nla_len < sizeof(nlattr) or at + attribute.nla_len > header.nlmsg_len:
            break
        kind = attribute.nla_type & NLA_TYPE_MASK
        # On a point-to-point link IFA_ADDRESS is the peer's; only IPv6 leaves out IFA_LOCAL.
        if (kind == IFA_LOCAL or kind == IFA_ADDRESS and address == NULL) and (
                attribute.nla_len == sizeof(nlattr) + address_size(family)):
            address = <const uint8_t*>(attribute + 1)
        elif kind == IFA_PROTO_TYPE and attribute.nla_len > sizeof(nlattr):
            marked = (<const uint8_t*>(attribute + 1))[0] == OWN_PROTOCOL
        at += (attribute.nla_len + 3) & ~3
    if address == NULL or part_of(family, body.ifa_prefixlen, address,
                                  existing.parts) != existing.part:
        return 0
    place = &existing.found[found_place(existing, family, body.ifa_prefixlen, address)]
    place.look, place.family, place.marked = existing.look, family, marked
    place.prefixlen = body.ifa_prefixlen
    memcpy(place.bytes, address, address_size(family))
    return 1


# --------------------------------------------------------------------------- promote_secondaries

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
    memset(&request, 0, sizeof(request))
    netlink.sequence += CHANGES
    request.header.nlmsg_len = sizeof(request)
    request.header.nlmsg_type = <unsigned short>RTM_SETLINK
    request.header.nlmsg_flags = <unsigned short>(NLM_F_REQUEST | NLM_F_ACK)
    request.header.nlmsg_seq = netlink.sequence
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
    memset(&request, 0, sizeof(request))
    netlink.sequence += CHANGES
    request.header.nlmsg_len = sizeof(request)
    request.header.nlmsg_type = <unsigned short>RTM_GETLINK
    request.header.nlmsg_flags = <unsigned short>NLM_F_REQUEST
    request.header.nlmsg_seq = netlink.sequence
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
        if length < <ssize_t>(sizeof(nlmsghdr) + 4) or header.nlmsg_seq != netlink.sequence:
            continue
        if header.nlmsg_type == NLMSG_ERROR:
            return -(<const int*>(header + 1))[0]
        if header.nlmsg_type == RTM_NEWLINK and promotes != NULL:
            return find_promotion(header, <size_t>length, promotes)


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
