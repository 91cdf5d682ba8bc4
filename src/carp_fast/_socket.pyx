"""Batches of frames in and out of packet sockets: recvmmsg and sendmmsg.

The sockets are opened, filtered and joined in Python (sockets.py) and handed in as numbers. All
buffers are the caller's. Knows no engine: frames, interface indexes, times and errnos.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

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
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    unsigned char* CMSG_DATA(cmsghdr* header)
    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int count, int flags)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* length)
    int AF_PACKET, MSG_DONTWAIT, MSG_TRUNC, SOL_SOCKET, SOL_PACKET, SCM_TIMESTAMPNS
    int PACKET_STATISTICS


cdef void receive_prepare(ReceiveBatch* batch) noexcept nogil:
    """Tie the batch's buffers together, once."""
    cdef int i
    memset(batch, 0, sizeof(ReceiveBatch))
    for i in range(BATCH):
        batch.vectors[i].iov_base = batch.frames[i]
        batch.vectors[i].iov_len = FRAME_SLOT
        batch.messages[i].msg_hdr.msg_iov = &batch.vectors[i]
        batch.messages[i].msg_hdr.msg_iovlen = 1
        batch.messages[i].msg_hdr.msg_name = &batch.source[i]
        batch.messages[i].msg_hdr.msg_control = batch.control[i]


cdef int receive_batch(ReceiveBatch* batch, int fd) noexcept nogil:
    """Take what waits, at most BATCH frames: how many, or minus the errno.

    Less than BATCH means that the socket was found empty. A message's length is the frame's, of
    which FRAME_SLOT bytes are kept.
    """
    cdef int i, count
    for i in range(BATCH):
        batch.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_ll)
        batch.messages[i].msg_hdr.msg_controllen = CONTROL_SLOT
    while True:
        count = recvmmsg(fd, batch.messages, BATCH, MSG_DONTWAIT | MSG_TRUNC, NULL)
        if count >= 0:
            return count
        if errno != EINTR:
            return -errno


cdef int64_t arrival_ns(const ReceiveBatch* batch, int which) noexcept nogil:
    """When the kernel received the frame, in ns of CLOCK_REALTIME; 0 when it does not say."""
    cdef cmsghdr* header = CMSG_FIRSTHDR(<msghdr*>&batch.messages[which].msg_hdr)
    cdef timespec at
    if header == NULL or header.cmsg_level != SOL_SOCKET or header.cmsg_type != SCM_TIMESTAMPNS:
        return 0
    memcpy(&at, CMSG_DATA(header), sizeof(at))
    return <int64_t>at.tv_sec * 1000000000 + at.tv_nsec


cdef uint32_t socket_drops(int fd) noexcept nogil:
    """Frames that the kernel dropped for want of room since the last call."""
    cdef tpacket_stats stats
    cdef socklen_t length = sizeof(stats)
    if getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) < 0:
        return 0
    return stats.tp_drops


cdef void send_prepare(SendBatch* batch) noexcept nogil:
    """Tie the batch's buffers together, once."""
    cdef int i
    memset(batch, 0, sizeof(SendBatch))
    for i in range(BATCH):
        batch.messages[i].msg_hdr.msg_iov = &batch.vectors[i]
        batch.messages[i].msg_hdr.msg_iovlen = 1
        batch.messages[i].msg_hdr.msg_name = &batch.target[i]
        batch.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_ll)
        batch.target[i].sll_family = AF_PACKET
        batch.target[i].sll_halen = 6


cdef void send_put(SendBatch* batch, uint32_t slot, int32_t ifindex, const uint8_t* frame,
                   uint32_t length) noexcept nogil:
    """Add a frame, which must stay where it is until send_batch. The caller keeps to BATCH."""
    cdef uint32_t i = batch.count
    batch.vectors[i].iov_base = <void*>frame
    batch.vectors[i].iov_len = length
    batch.target[i].sll_ifindex = ifindex
    batch.slots[i] = slot
    batch.errors[i] = 0
    batch.count += 1


cdef void send_batch(SendBatch* batch, int fd) noexcept nogil:
    """Send all frames of the batch; `errors` says what became of each. `count` stays.

    One frame that cannot be sent (its interface is down) does not keep back the next.
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
