"""Batches of frames in and out of packet and raw sockets: recvmmsg and sendmmsg."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

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
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        unsigned short sin_family
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_family
        in6_addr sin6_addr
        uint32_t sin6_scope_id

cdef enum:
    BATCH = 256                 # frames per system call
    FRAME_SLOT = 160            # of a received frame: headers have at most 110 bytes
    # A timestamp, an address with its interface, a hop limit, the size of fragments, and the
    # beginning of an extension header.
    CONTROL_SLOT = 256

cdef enum ReceiverKind:         # which part of a frame it delivers; as RECEIVER_WORDS
    RECEIVE_PACKET              # all of it
    RECEIVE_RAW4                # from the IPv4 header on
    RECEIVE_RAW6                # what follows the IPv6 header
    RECEIVE_RING                # nothing but what wakes: frames are in a ring (_ring.pyx)

cdef union SocketAddress:
    sockaddr_ll link
    sockaddr_in ip4
    sockaddr_in6 ip6

cdef struct Arrival:
    int64_t realtime_ns         # when the kernel received it, CLOCK_REALTIME; 0: unknown
    int32_t ifindex
    uint32_t length             # of the whole frame, of which FRAME_SLOT bytes are kept

cdef struct ReceiveBatch:
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    SocketAddress sources[BATCH]
    uint8_t control[BATCH][CONTROL_SLOT]
    uint8_t frames[BATCH][FRAME_SLOT]
    Arrival arrivals[BATCH]

cdef struct SendBatch:
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    SocketAddress targets[BATCH]
    uint8_t control[BATCH][CONTROL_SLOT]
    uint32_t owners[BATCH]      # of each frame: a number of the caller's
    int32_t errors[BATCH]       # errno of each after send_batch
    uint32_t count

cdef void receive_prepare(ReceiveBatch* batch) noexcept nogil
cdef int receive_batch(ReceiveBatch* batch, int fd, uint8_t kind) noexcept nogil
cdef bint take_waking(int fd) noexcept nogil
cdef uint32_t socket_drops(int fd, uint8_t kind, uint32_t* total) noexcept nogil
cdef void send_prepare(SendBatch* batch) noexcept nogil
cdef void send_put(SendBatch* batch, uint32_t owner, int32_t ifindex, const uint8_t* frame,
                   uint32_t length) noexcept nogil
cdef void send_put_raw(SendBatch* batch, uint32_t owner, int32_t ifindex, const uint8_t* frame,
                       uint32_t length) noexcept nogil
cdef void send_batch(SendBatch* batch, int fd) noexcept nogil
