"""Batches of frames in and out of packet and raw sockets: recvmmsg and sendmmsg.

The sockets are opened, filtered and joined in Python (net/sockets.py) and passed as numbers. All
buffers are the caller's. Parts of a frame that a raw socket leaves out are filled in here, so
frames have one form. Knows no engine: frames, interface indexes, times and errnos.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from carp_fast.engine._wire cimport (
    ETHERNET_LENGTH, FRAGMENT_HEADER, IPV6_LENGTH, PROTOCOL_CARP)

cdef extern from "system.h" nogil:
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    struct timespec:
        long tv_sec
        long tv_nsec
    struct tpacket_stats:
        unsigned int tp_packets
        unsigned int tp_drops
    struct in_pktinfo:
        int ipi_ifindex
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    cmsghdr* CMSG_NXTHDR(msghdr* message, cmsghdr* header)
    unsigned char* CMSG_DATA(cmsghdr* header)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    ssize_t recv(int fd, void* data, size_t length, int flags)
    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int count, int flags)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* length)
    int AF_PACKET, AF_INET, AF_INET6, MSG_DONTWAIT, MSG_TRUNC, SOL_SOCKET, SOL_PACKET
    int SCM_TIMESTAMPNS, PACKET_STATISTICS, SO_MEMINFO, SK_MEMINFO_DROPS
    int IPPROTO_IP, IP_PKTINFO, IP_RECVFRAGSIZE
    int IPPROTO_IPV6, IPV6_PKTINFO, IPV6_HOPLIMIT, IPV6_RECVFRAGSIZE
    int IPV6_HOPOPTS, IPV6_RTHDR, IPV6_DSTOPTS

cdef enum:
    MEMINFO_ROOM = 16           # values about a socket's memory; the kernel has nine


# -------------------------------------------------------------------------------------- receiving

cdef void receive_prepare(ReceiveBatch* batch) noexcept nogil:
    """Link the batch's buffers, once."""
    cdef int i
    memset(batch, 0, sizeof(ReceiveBatch))
    for i in range(BATCH):
        batch.messages[i].msg_hdr.msg_iov = &batch.vectors[i]
        batch.messages[i].msg_hdr.msg_iovlen = 1
        batch.messages[i].msg_hdr.msg_name = &batch.sources[i]
        batch.messages[i].msg_hdr.msg_control = batch.control[i]


cdef inline uint32_t left_out(uint8_t kind) noexcept nogil:
    """How many bytes at the beginning of a frame such a socket does not deliver."""
    if kind == RECEIVE_RAW4:
        return ETHERNET_LENGTH
    return ETHERNET_LENGTH + IPV6_LENGTH if kind == RECEIVE_RAW6 else 0


cdef int receive_batch(ReceiveBatch* batch, int fd, uint8_t kind) noexcept nogil:
    """Read the frames that wait, at most BATCH: how many, or minus the errno.

    Less than BATCH means that the socket was empty. `frames` and `arrivals` are filled for every
    kind of socket.
    """
    cdef int i, count
    cdef uint32_t skipped = left_out(kind)
    for i in range(BATCH):
        batch.vectors[i].iov_base = batch.frames[i] + skipped
        batch.vectors[i].iov_len = FRAME_SLOT - skipped
        batch.messages[i].msg_hdr.msg_namelen = sizeof(SocketAddress)
        batch.messages[i].msg_hdr.msg_controllen = CONTROL_SLOT
    while True:
        count = recvmmsg(fd, batch.messages, BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL)
        if count >= 0:
            break
        if errno != EINTR:
            return -errno
    for i in range(count):
        batch.arrivals[i].length = batch.messages[i].msg_len + skipped
        if kind == RECEIVE_PACKET:
            batch.arrivals[i].ifindex = batch.sources[i].link.sll_ifindex
        else:
            put_headers(batch, kind, i)
        read_control(batch, i)
    return count


cdef void put_headers(ReceiveBatch* batch, uint8_t kind, int which) noexcept nogil:
    """Fill in what a raw socket leaves out: Ethernet without MACs; IPv6 without control data."""
    cdef uint8_t* frame = batch.frames[which]
    cdef uint8_t* ip = frame + ETHERNET_LENGTH
    cdef uint32_t payload = batch.messages[which].msg_len
    memset(frame, 0, left_out(kind))
    if kind == RECEIVE_RAW4:
        frame[12] = 0x08
        return
    frame[12], frame[13] = 0x86, 0xdd
    ip[0] = 0x60
    ip[4], ip[5] = (payload >> 8) & 0xff, payload & 0xff
    ip[6] = PROTOCOL_CARP
    memcpy(ip + 8, batch.sources[which].ip6.sin6_addr.s6_addr, 16)


cdef void read_control(ReceiveBatch* batch, int which) noexcept nogil:
    """Read an arrival's time and interface; write IPv6's destination and hop limit to it.

    A packet that the kernel reassembled, or removed extension headers from, is marked as a
    fragment: a packet socket would have got it as it was.
    """
    cdef msghdr* message = &batch.messages[which].msg_hdr
    cdef Arrival* arrival = &batch.arrivals[which]
    cdef uint8_t* ip = batch.frames[which] + ETHERNET_LENGTH
    cdef cmsghdr* header = CMSG_FIRSTHDR(message)
    cdef timespec at
    cdef in_pktinfo info
    cdef in6_pktinfo info6
    arrival.realtime_ns = 0
    while header != NULL:
        if header.cmsg_level == SOL_SOCKET and header.cmsg_type == SCM_TIMESTAMPNS:
            memcpy(&at, CMSG_DATA(header), sizeof(at))
            arrival.realtime_ns = <int64_t>at.tv_sec * 1000000000 + at.tv_nsec
        elif header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_PKTINFO:
            memcpy(&info, CMSG_DATA(header), sizeof(info))
            arrival.ifindex = info.ipi_ifindex
        elif header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_RECVFRAGSIZE:
            ip[6] |= 0x20                               # more fragments
        elif header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_PKTINFO:
            memcpy(&info6, CMSG_DATA(header), sizeof(info6))
            arrival.ifindex = <int32_t>info6.ipi6_ifindex
            memcpy(ip + 24, info6.ipi6_addr.s6_addr, 16)
        elif header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_HOPLIMIT:
            ip[7] = <uint8_t>(<int*>CMSG_DATA(header))[0]
        elif header.cmsg_level == IPPROTO_IPV6 and (
                header.cmsg_type == IPV6_RECVFRAGSIZE or header.cmsg_type == IPV6_HOPOPTS
                or header.cmsg_type == IPV6_RTHDR or header.cmsg_type == IPV6_DSTOPTS):
            if arrival.length > ETHERNET_LENGTH + IPV6_LENGTH:  # an empty one is too short anyway
                ip[6], ip[IPV6_LENGTH] = FRAGMENT_HEADER, PROTOCOL_CARP
        header = CMSG_NXTHDR(message, header)


cdef bint take_waking(int fd) noexcept nogil:
    """Take a frame out of the socket of a ring, where it was put to wake the reader."""
    return recv(fd, NULL, 0, MSG_DONTWAIT) >= 0


cdef uint32_t socket_drops(int fd, uint8_t kind, uint32_t* total) noexcept nogil:
    """Frames that the kernel dropped for lack of room since the last call.

    `total` is the caller's: the count of a raw socket at the last call.
    """
    cdef tpacket_stats stats
    cdef uint32_t memory[MEMINFO_ROOM]
    cdef uint32_t before = total[0]
    cdef socklen_t length = sizeof(stats)
    if kind == RECEIVE_PACKET:                      # reads it and sets it to zero
        if getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) < 0:
            return 0
        return stats.tp_drops
    length = sizeof(memory)
    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length) < 0
            or length <= SK_MEMINFO_DROPS * sizeof(uint32_t)):
        return 0
    total[0] = memory[SK_MEMINFO_DROPS]
    return total[0] - before


# ---------------------------------------------------------------------------------------- sending

cdef void send_prepare(SendBatch* batch) noexcept nogil:
    """Link the batch's buffers, once. A batch is sent through one kind of socket."""
    cdef int i
    memset(batch, 0, sizeof(SendBatch))
    for i in range(BATCH):
        batch.messages[i].msg_hdr.msg_iov = &batch.vectors[i]
        batch.messages[i].msg_hdr.msg_iovlen = 1
        batch.messages[i].msg_hdr.msg_name = &batch.targets[i]


cdef uint32_t add_message(SendBatch* batch, uint32_t owner, const uint8_t* data,
                          uint32_t length) noexcept nogil:
    cdef uint32_t i = batch.count
    batch.vectors[i].iov_base = <void*>data
    batch.vectors[i].iov_len = length
    batch.owners[i] = owner
    batch.errors[i] = 0
    batch.count += 1
    return i


cdef void send_put(SendBatch* batch, uint32_t owner, int32_t ifindex, const uint8_t* frame,
                   uint32_t length) noexcept nogil:
    """Add a frame for a packet socket; its memory must stay until send_batch.

    The caller keeps within BATCH.
    """
    cdef uint32_t i = add_message(batch, owner, frame, length)
    batch.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_ll)
    batch.targets[i].link.sll_family = AF_PACKET
    batch.targets[i].link.sll_halen = 6
    batch.targets[i].link.sll_ifindex = ifindex


cdef inline bint is_link_local(const uint8_t* address) noexcept nogil:
    return address[0] == 0xfe and address[1] & 0xc0 == 0x80


cdef void send_put_raw(SendBatch* batch, uint32_t owner, int32_t ifindex, const uint8_t* frame,
                       uint32_t length) noexcept nogil:
    """Add a frame for a raw socket of its family: the kernel routes it to its IP destination.

    IPv4 keeps its header. IPv6 gets a new one with the frame's source; `ifindex` is given only for
    link-local addresses, which need it, so that others may be routed.
    """
    cdef const uint8_t* ip = frame + ETHERNET_LENGTH
    cdef cmsghdr* header
    cdef in6_pktinfo info
    cdef uint32_t i, scope
    if frame[12] == 0x08:
        i = add_message(batch, owner, ip, length - ETHERNET_LENGTH)
        batch.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_in)
        batch.targets[i].ip4.sin_family = AF_INET
        memcpy(&batch.targets[i].ip4.sin_addr, ip + 16, 4)
        return
    scope = <uint32_t>ifindex if is_link_local(ip + 8) or is_link_local(ip + 24) else 0
    i = add_message(batch, owner, ip + IPV6_LENGTH, length - ETHERNET_LENGTH - IPV6_LENGTH)
    batch.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
    batch.targets[i].ip6.sin6_family = AF_INET6
    batch.targets[i].ip6.sin6_scope_id = scope
    memcpy(batch.targets[i].ip6.sin6_addr.s6_addr, ip + 24, 16)
    memcpy(info.ipi6_addr.s6_addr, ip + 8, 16)
    info.ipi6_ifindex = scope
    batch.messages[i].msg_hdr.msg_control = batch.control[i]
    batch.messages[i].msg_hdr.msg_controllen = CMSG_SPACE(sizeof(info))
    header = CMSG_FIRSTHDR(&batch.messages[i].msg_hdr)
    header.cmsg_level, header.cmsg_type = IPPROTO_IPV6, IPV6_PKTINFO
    header.cmsg_len = CMSG_LEN(sizeof(info))
    memcpy(CMSG_DATA(header), &info, sizeof(info))


cdef void send_batch(SendBatch* batch, int fd) noexcept nogil:
    """Send all frames of the batch; `errors` has the errno of each. `count` stays.

    A frame that cannot be sent (its interface is down) does not hold up the next.
    """
    cdef uint32_t at = 0
    cdef int sent
    while at < batch.count:
        sent = sendmmsg(fd, &batch.messages[at], batch.count - at, MSG_DONTWAIT)
        if sent > 0:
            at += <uint32_t>sent
        elif errno != EINTR:
            batch.errors[at] = errno
            at += 1
