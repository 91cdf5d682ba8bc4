"""Batches of frames in and out of packet sockets: recvmmsg and sendmmsg."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef extern from "system.h" nogil:
    ctypedef unsigned int socklen_t
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct sockaddr_ll:
        unsigned short sll_family
        unsigned short sll_protocol
        int sll_ifindex
        unsigned char sll_halen

cdef enum:
    BATCH = 256                 # frames a system call
    FRAME_SLOT = 160            # of a received frame: longest headers 110 bytes, rest is not read
    CONTROL_SLOT = 64           # one timestamp

cdef struct ReceiveBatch:
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    sockaddr_ll source[BATCH]
    uint8_t control[BATCH][CONTROL_SLOT]
    uint8_t frames[BATCH][FRAME_SLOT]

cdef struct SendBatch:
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    sockaddr_ll target[BATCH]
    uint32_t slots[BATCH]       # whose frame it is
    int32_t errors[BATCH]       # errno of each after send_batch
    uint32_t count

cdef void receive_prepare(ReceiveBatch* batch) noexcept nogil
cdef int receive_batch(ReceiveBatch* batch, int fd) noexcept nogil
cdef int64_t arrival_ns(const ReceiveBatch* batch, int which) noexcept nogil
cdef uint32_t socket_drops(int fd) noexcept nogil
cdef void send_prepare(SendBatch* batch) noexcept nogil
cdef void send_put(SendBatch* batch, uint32_t slot, int32_t ifindex, const uint8_t* frame,
                   uint32_t length) noexcept nogil
cdef void send_batch(SendBatch* batch, int fd) noexcept nogil
