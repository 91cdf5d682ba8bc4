"""The kernel floor: loops that only send or receive frames of advertisements.

The cost of any process that sends or receives at a given rate, in batches, woken once a tick, and
not at all while nothing is due or arrives. A daemon is compared with this. Knows no engine, parses
no frame, keeps nothing.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from carp_fast.pump._socket cimport iovec, mmsghdr, sockaddr_ll

cdef extern from "system.h" nogil:
    struct pollfd:
        int fd
        short events
    struct timespec:
        long tv_sec
        long tv_nsec
    int64_t clock_ns(int clock)
    int clock_nanosleep(int clock, int flags, const timespec* at, timespec* left)
    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int count, int flags)
    int AF_PACKET, MSG_DONTWAIT, CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID, TIMER_ABSTIME

cdef extern from "poll.h" nogil:
    int poll(pollfd* watched, unsigned long count, int timeout_ms)
    short POLLIN

cdef enum:
    BATCH = 256                 # frames per system call
    SLOT = 160                  # bytes of a frame

    IDLE_MS = 1000              # how often an idle receiver checks whether to stop

cdef int64_t SECOND_NS = 1000000000

cdef struct Batch:
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    sockaddr_ll names[BATCH]
    uint8_t frames[BATCH][SLOT]


cdef class Mover:
    """Moves frames through one packet socket for a while; the caller owns the socket.

    `stop()` from another thread ends it at the next tick.
    """

    cdef int fd
    cdef int64_t tick_ns
    cdef volatile bint stopping

    def __cinit__(self, int fd, int64_t tick_ns):
        if tick_ns < 1:
            raise ValueError(f"tick_ns = {tick_ns}: at least 1")
        self.fd = fd
        self.tick_ns = tick_ns

    def stop(self):
        self.stopping = True

    def send(self, list ifindexes, list frames, double rate, double seconds):
        """Sends `frames` in turn on `ifindexes` in turn, `rate` a second in total.

        Returns (frames sent, CPU ns of this thread, ns on the clock). OSError if the kernel
        refuses one. A frame is at most 160 bytes.
        """
        cdef int64_t moved, begun_at_ns, cpu_ns, error
        cdef Batch* batch = _batch()
        cdef sockaddr_ll* targets = NULL
        try:
            if not ifindexes or not frames or len(frames) > BATCH or rate <= 0:
                raise ValueError(f"needs an interface, 1 to {BATCH} frames, and a rate")
            targets = <sockaddr_ll*>calloc(len(ifindexes), sizeof(sockaddr_ll))
            if targets == NULL:
                raise MemoryError
            for i, ifindex in enumerate(ifindexes):
                targets[<int>i].sll_family = <unsigned short>AF_PACKET
                targets[<int>i].sll_ifindex = ifindex
                targets[<int>i].sll_halen = 6
            _fill(batch, frames)
            begun_at_ns = clock_ns(CLOCK_MONOTONIC)
            cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID)
            error = 0
            moved = _send(self, batch, targets, len(ifindexes), len(frames), rate, seconds, &error)
            if error:
                raise OSError(error, f"sendmmsg: errno {error}")
            return (
                moved,
                clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns,
                clock_ns(CLOCK_MONOTONIC) - begun_at_ns,
            )
        finally:
            free(targets)
            free(batch)

    def receive(self, double seconds):
        """Receives all frames that arrive and drops them.

        Returns (frames received, CPU ns of this thread, ns on the clock). OSError if the socket
        has an error.
        """
        cdef int64_t moved, begun_at_ns, cpu_ns, error = 0
        cdef Batch* batch = _batch()
        try:
            begun_at_ns = clock_ns(CLOCK_MONOTONIC)
            cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID)
            moved = _receive(self, batch, seconds, &error)
            if error:
                raise OSError(error, f"recvmmsg: errno {error}")
            return (
                moved,
                clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns,
                clock_ns(CLOCK_MONOTONIC) - begun_at_ns,
            )
        finally:
            free(batch)


cdef Batch* _batch() except NULL:
    cdef int i
    cdef Batch* batch = <Batch*>calloc(1, sizeof(Batch))
    if batch == NULL:
        raise MemoryError
    for i in range(BATCH):
        batch.vectors[i].iov_base = batch.frames[i]
        batch.vectors[i].iov_len = SLOT
        batch.messages[i].msg_hdr.msg_iovlen = 1
    return batch


cdef int _fill(Batch* batch, list frames) except -1:
    cdef bytes frame
    cdef int i = 0
    for frame in frames:
        if not 14 <= len(frame) <= SLOT:
            raise ValueError(f"a frame of {len(frame)} bytes: 14 to {SLOT}")
        memcpy(batch.frames[i], <const uint8_t*>frame, len(frame))
        batch.vectors[i].iov_len = len(frame)
        i += 1
    return 0


cdef void _sleep_until(int64_t at_ns) noexcept nogil:
    cdef timespec at
    at.tv_sec = at_ns // SECOND_NS
    at.tv_nsec = at_ns % SECOND_NS
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL)


cdef int64_t _send(Mover mover, Batch* batch, sockaddr_ll* targets, int64_t target_count,
                   int64_t frame_count, double rate, double seconds, int64_t* error):
    cdef int64_t begun_at_ns = clock_ns(CLOCK_MONOTONIC), at_ns, due, sent = 0
    cdef int64_t until_ns = begun_at_ns + <int64_t>(seconds * 1e9)
    cdef int i, count, fd = mover.fd
    with nogil:
        at_ns = begun_at_ns
        while at_ns < until_ns and not mover.stopping:
            _sleep_until(at_ns)
            due = <int64_t>((clock_ns(CLOCK_MONOTONIC) - begun_at_ns) * rate / 1e9)
            while sent < due:
                count = <int>min(due - sent, BATCH)
                for i in range(count):
                    batch.messages[i].msg_hdr.msg_iov = &batch.vectors[(sent + i) % frame_count]
                    batch.messages[i].msg_hdr.msg_name = &targets[(sent + i) % target_count]
                    batch.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_ll)
                count = sendmmsg(fd, batch.messages, count, 0)
                if count > 0:
                    sent += count
                elif errno != EINTR:
                    error[0] = errno
                    break
            if error[0]:
                break
            at_ns = max(at_ns + mover.tick_ns, begun_at_ns + <int64_t>((sent + 1) * 1e9 / rate))
    return sent


cdef int64_t _receive(Mover mover, Batch* batch, double seconds, int64_t* error):
    cdef int64_t begun_at_ns = clock_ns(CLOCK_MONOTONIC), at_ns, received = 0
    cdef int64_t until_ns = begun_at_ns + <int64_t>(seconds * 1e9)
    cdef int64_t before
    cdef int i, count, fd = mover.fd
    cdef pollfd watched
    watched.fd = fd
    watched.events = POLLIN
    with nogil:
        at_ns = begun_at_ns
        while at_ns < until_ns and not mover.stopping:
            _sleep_until(at_ns)
            before = received
            count = BATCH
            while count == BATCH:
                for i in range(BATCH):
                    batch.messages[i].msg_hdr.msg_iov = &batch.vectors[i]
                    batch.messages[i].msg_hdr.msg_name = &batch.names[i]
                    batch.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_ll)
                count = recvmmsg(fd, batch.messages, BATCH, MSG_DONTWAIT, NULL)
                if count > 0:
                    received += count
                elif count < 0 and errno != EAGAIN and errno != EINTR:
                    error[0] = errno
            if error[0]:
                break
            if received == before:
                poll(&watched, 1, IDLE_MS)
                at_ns = clock_ns(CLOCK_MONOTONIC)
            at_ns += mover.tick_ns
    return received
