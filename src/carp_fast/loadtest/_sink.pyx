"""The receiving end: reads frames from a packet socket in batches and passes them to a tally.

Reads the frames that wait, sleeps a tick, and waits for the socket if a tick brought nothing. Must
not know what is counted or how; the caller owns the socket, which tells tags (PACKET_AUXDATA).
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from carp_fast.pump._socket cimport (
    BATCH, FRAME_SLOT, RECEIVE_PACKET, ReceiveBatch, msghdr, receive_batch, receive_prepare)
from carp_fast.loadtest._tally cimport Tally

cdef extern from "system.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    struct tpacket_auxdata:
        uint32_t tp_status
        uint16_t tp_vlan_tci
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    cmsghdr* CMSG_NXTHDR(msghdr* message, cmsghdr* header)
    unsigned char* CMSG_DATA(cmsghdr* header)
    int SOL_PACKET, PACKET_AUXDATA, TP_STATUS_VLAN_VALID
    int64_t clock_ns(int clock)
    int clock_nanosleep(int clock, int flags, const timespec* at, timespec* left)
    int CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
    int poll(pollfd* watched, unsigned long count, int timeout_ms)
    short POLLIN

cdef enum:
    TICK_NS = 1000000               # one wake-up for all frames that come within
    IDLE_MS = 50                    # how often a sink without frames checks whether to stop
    VLAN_ID = 0xfff                 # of a tag, whose other bits are a priority


cdef class Sink:
    """Counts what a packet socket receives; `run` in one thread, `stop` from any."""

    cdef int fd
    cdef Tally tally
    cdef ReceiveBatch* batch
    cdef volatile bint stopping
    cdef int64_t cpu_ns

    def __cinit__(self, int fd, Tally tally not None):
        self.fd, self.tally = fd, tally
        self.batch = <ReceiveBatch*>malloc(sizeof(ReceiveBatch))
        if self.batch == NULL:
            raise MemoryError("sink")
        receive_prepare(self.batch)

    def __dealloc__(self):
        free(self.batch)

    def stop(self) -> None:
        """Ends `run` within IDLE_MS; frames that wait in the socket are still counted."""
        self.stopping = True

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the thread in `run`, set when that has ended."""
        return self.cpu_ns / 1e9

    def run(self, uint64_t count=0) -> None:
        """Counts until `stop`, or until the tally has `count` frames (0: without end).

        Raises OSError: ENETDOWN if the interface was set down or is gone.
        """
        cdef int64_t begun_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID)
        cdef int error
        with nogil:
            error = take_all(self, self.tally, count)
        self.cpu_ns += clock_ns(CLOCK_THREAD_CPUTIME_ID) - begun_ns
        if error:
            raise OSError(error, "recvmmsg")


cdef int take_all(Sink sink, Tally tally, uint64_t limit) noexcept nogil:
    """Read until stopped and the socket is empty; an errno, or 0."""
    cdef ReceiveBatch* batch = sink.batch
    cdef bint last
    cdef int i, count
    cdef uint32_t length
    while True:
        last = sink.stopping
        count = receive_batch(batch, sink.fd, RECEIVE_PACKET)
        if count < 0 and count != -EAGAIN:
            return -count
        for i in range(count):
            if limit and tally.totals.frames >= limit:
                return 0
            length = batch.arrivals[i].length
            tally.count(batch.frames[i], length, min(length, <uint32_t>FRAME_SLOT),
                        vlan_of(&batch.messages[i].msg_hdr), batch.arrivals[i].realtime_ns)
        if limit and tally.totals.frames >= limit:
            return 0
        if count < BATCH:
            if last:
                return 0
            rest(sink.fd, count <= 0)


cdef uint16_t vlan_of(msghdr* message) noexcept nogil:
    """The VLAN of the tag that the kernel took off a frame; 0: it had none, or a mere priority."""
    cdef cmsghdr* header = CMSG_FIRSTHDR(message)
    cdef tpacket_auxdata beside
    while header != NULL:
        if header.cmsg_level == SOL_PACKET and header.cmsg_type == PACKET_AUXDATA:
            memcpy(&beside, CMSG_DATA(header), sizeof(beside))
            return beside.tp_vlan_tci & VLAN_ID if beside.tp_status & TP_STATUS_VLAN_VALID else 0
        header = CMSG_NXTHDR(message, header)
    return 0


cdef void rest(int fd, bint silent) noexcept nogil:
    cdef timespec tick
    cdef pollfd watched
    if silent:
        watched.fd, watched.events = fd, POLLIN
        poll(&watched, 1, IDLE_MS)
        return
    tick.tv_sec, tick.tv_nsec = 0, TICK_NS
    clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, NULL)
