"""Address changes over rtnetlink: encoded from templates, sent in batches, acknowledged.

pyroute2 builds one message of each kind (addresses.py); here only the interface, the address,
the prefix length and the sequence number are written into copies of it. Changes are synchronous
in the kernel: the answers wait when sendto returns. Whoever fails answers, and the last one does.
Knows no engine and no clock.
"""

from libc.errno cimport EADDRNOTAVAIL, EEXIST, EINTR, ENOBUFS, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from carp_fast._socket cimport iovec, mmsghdr, msghdr

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
    struct ifaddrmsg:
        unsigned char ifa_family
        unsigned char ifa_prefixlen
        unsigned int ifa_index
    struct timespec:
        pass
    int AF_NETLINK, MSG_DONTWAIT, NLM_F_ACK, NLMSG_ERROR
    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)
    ssize_t sendto(int fd, const void* data, size_t length, int flags, const void* to,
                   unsigned int tolen)

cdef enum:
    ATTEMPTS = 3                # for changes whose acknowledgement was lost


cdef int netlink_template(Template* template, bytes encoded, bytes address) except -1:
    """Take an encoded RTM_NEWADDR or RTM_DELADDR for `address` as the template.

    Finds where the address stands in it; raises ValueError when it does not.
    """
    if len(encoded) > MESSAGE_ROOM:
        raise ValueError(f"address message of {len(encoded)} bytes, at most {MESSAGE_ROOM}")
    first = encoded.find(address)
    second = encoded.find(address, first + 1)
    if first < sizeof(nlmsghdr) + sizeof(ifaddrmsg):
        raise ValueError("address message without its address")
    memcpy(template.bytes, <const char*>encoded, len(encoded))
    template.length = <uint32_t>len(encoded)
    template.address_at = <uint32_t>first
    template.local_at = <uint32_t>second if second > 0 else 0
    return 0


cdef void netlink_put(Netlink* netlink, uint32_t slot, uint32_t which, bint added,
                      int32_t ifindex, uint8_t family, bint preferred, uint8_t prefixlen,
                      const uint8_t* address) noexcept nogil:
    """Add a change to the batch. The caller keeps to CHANGES and resets `count` and `used`."""
    cdef Template* template = &netlink.removing[family == 6]
    if added:
        template = &netlink.adding[0 if family == 4 else 2 if preferred else 1]
    cdef uint8_t* out = netlink.out + netlink.used
    cdef uint32_t size = 16 if family == 6 else 4
    cdef ifaddrmsg* body = <ifaddrmsg*>(out + sizeof(nlmsghdr))
    cdef Change* change = &netlink.changes[netlink.count]
    memcpy(out, template.bytes, template.length)
    (<nlmsghdr*>out).nlmsg_seq = netlink.sequence + netlink.count
    body.ifa_prefixlen = prefixlen
    body.ifa_index = <unsigned int>ifindex
    memcpy(out + template.address_at, address, size)
    if template.local_at:
        memcpy(out + template.local_at, address, size)
    change.slot, change.which, change.added = slot, which, added
    change.error, change.done, change.sent = 0, 0, 0
    netlink.offsets[netlink.count] = netlink.used
    netlink.count += 1
    netlink.used += template.length
    netlink.offsets[netlink.count] = netlink.used


cdef int read_acknowledgements(Netlink* netlink) noexcept nogil:
    """Note the outcome of every change that is acknowledged; 0, or the errno that ended it."""
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


cdef void netlink_carry_out(Netlink* netlink) noexcept nogil:
    """Send the batch and read what became of it: every change has its `error` afterwards.

    At first only the last change asks for an answer: where that came, and none was lost, what said
    nothing was carried out. Else (ENOBUFS) the open ones are sent again and all asked; EEXIST and
    EADDRNOTAVAIL then mean that it had been carried out.
    """
    cdef uint32_t i
    cdef int attempt, error
    cdef bint lost
    for attempt in range(ATTEMPTS):
        if not send_open(netlink, attempt > 0):
            break
        error, lost = ENOBUFS, False
        while error == ENOBUFS:                     # told once for each overrun, then go on
            error = read_acknowledgements(netlink)
            lost |= error == ENOBUFS
        if attempt == 0 and not lost and netlink.changes[netlink.count - 1].done:
            for i in range(netlink.count):
                netlink.changes[i].done = 1
    for i in range(netlink.count):
        if not netlink.changes[i].done:
            netlink.changes[i].error = ENOBUFS
        elif netlink.changes[i].sent > 1 and netlink.changes[i].error == (
                EEXIST if netlink.changes[i].added else EADDRNOTAVAIL):
            netlink.changes[i].error = 0
    netlink.sequence += netlink.count


cdef bint send_open(Netlink* netlink, bint ask_all) noexcept nogil:
    """Send every change that has no outcome yet, neighbours in one call; False when all have.

    All of them, or only the last one, ask for an answer when they succeed; whoever fails answers.
    """
    cdef nlmsghdr* header
    cdef uint32_t i = 0, first
    cdef bint any_open = False
    while i < netlink.count:
        first = i
        while i < netlink.count and not netlink.changes[i].done:
            netlink.changes[i].sent += 1
            header = <nlmsghdr*>(netlink.out + netlink.offsets[i])
            if ask_all or i == netlink.count - 1:
                header.nlmsg_flags |= NLM_F_ACK
            else:
                header.nlmsg_flags &= ~NLM_F_ACK
            i += 1
        if i > first:
            any_open = True
            sendto(netlink.fd, netlink.out + netlink.offsets[first],
                   netlink.offsets[i] - netlink.offsets[first], 0, NULL, 0)
        else:
            i += 1
    return any_open
