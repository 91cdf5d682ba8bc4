"""Sends the frames of a source to an interface when they are due: by sendmmsg, or as live frames.

sendmmsg: through a packet socket, in one call all frames that are due. Live: a small XDP program
that the kernel runs again and again (BPF_PROG_RUN with live frames, 5.18) takes frames from a ring
in a shared map, waits for the time of each, and redirects them to the interface; one thread is in
that system call all the time, the one in `run` keeps the ring full. Knows no CARP; the caller owns
sockets, maps and the program (loadtest/backends.py).
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, EINTR, ENOBUFS, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from carp_fast.loadtest._frames cimport FrameSource, KINDS_MAX, Made
from carp_fast.loadtest._pace cimport Gaps, Pace, gaps_add, gaps_facts
from carp_fast.pump._socket cimport iovec, mmsghdr
from carp_fast.engine._wire cimport STAMP_LENGTH, wire_put_stamp

cdef extern from "atomic.h" nogil:
    uint64_t load_acquire(const uint64_t* p) noexcept
    void store_release(uint64_t* p, uint64_t x) noexcept

cdef extern from "system.h" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    ctypedef struct sigset_t:
        pass
    ctypedef unsigned long pthread_t
    ctypedef void (*sighandler_t)(int) noexcept nogil
    struct sigaction_t "sigaction":
        sighandler_t sa_handler
    int64_t clock_ns(int clock) noexcept
    int clock_nanosleep(int clock, int flags, const timespec* at, timespec* left)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int count, int flags)
    long syscall(long number, ...)
    int sigaction(int number, const sigaction_t* action, sigaction_t* before)
    int sigfillset(sigset_t* set)
    int sigdelset(sigset_t* set, int number)
    int pthread_sigmask(int how, const sigset_t* set, sigset_t* before)
    int pthread_create(pthread_t* thread, void* attributes, void* (*start)(void*) noexcept nogil,
                       void* argument)
    int pthread_tryjoin_np(pthread_t thread, void** result)
    int pthread_kill(pthread_t thread, int number)
    int getpriority(int which, unsigned int who)
    int setpriority(int which, unsigned int who, int priority)
    struct sched_param:
        int sched_priority
    int sched_getscheduler(int process)
    int sched_getparam(int process, sched_param* parameters)
    int sched_setscheduler(int process, int policy, const sched_param* parameters)
    int SCHED_FIFO, SCHED_RESET_ON_FORK
    int CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_THREAD_CPUTIME_ID, TIMER_ABSTIME
    int MSG_DONTWAIT, SIG_SETMASK, SIGURG, PRIO_PROCESS
    int ENETDOWN, ENODEV, ENXIO
    long SYS_bpf, SYS_gettid

cdef extern from "poll.h" nogil:
    struct pollfd:
        int fd
        short events
    int poll(pollfd* watched, unsigned long count, int timeout_ms)
    short POLLOUT

cdef extern from "net/if.h" nogil:
    struct ifreq:
        char ifr_name[16]
        short ifr_flags
        int ifr_ifindex
    int IFF_UP, IFF_RUNNING

cdef extern from "sys/ioctl.h" nogil:
    int ioctl(int fd, unsigned long request, void* argument)
    unsigned long SIOCGIFNAME, SIOCGIFFLAGS

cdef extern from "sys/prctl.h" nogil:
    int prctl(int option, unsigned long argument)
    int PR_SET_TIMERSLACK, PR_GET_TIMERSLACK

cdef enum:
    BATCH = 128                 # frames per system call
    PIECE = 256                 # frames put into the ring before the program sees them
    BPF_PROG_TEST_RUN = 10
    ATTRIBUTES_ROOM = 128
    SLOT_HEAD = 16              # of a slot of the ring: when it is due, or was sent; bytes to cut
    HEAD_AT = 0                 # in the control map: how many slots the program has taken
    TAIL_AT = 64                # how many were filled; 0: the program takes none
    LOOK_NS = 10000000          # interval of checks of the link
    LEAD_MIN_NS = 10000         # a sleep ends so long before, since waking up takes time:
    LEAD_MAX_NS = 80000         # a quarter more than it took lately, within these bounds
    SLEEP_NS = 5000             # shorter sleeps are not worth it
    SLOTS_SLEEP_NS = 100000     # interval of checks of a full ring, or an ending program
    STEADY_NS = 1000000         # a steady flood that is later by more sends what follows later

LINK_LOST = (ENETDOWN, ENODEV, ENXIO)

cdef struct Progress:           # written by the thread in run(), read by any
    uint64_t sent
    uint64_t kinds[KINDS_MAX]
    uint64_t refused            # system calls that failed for lack of room
    int64_t begun_at_ns
    int64_t ended_at_ns
    int64_t cpu_ns              # of the thread in run()
    int64_t sender_cpu_ns       # of the other thread
    int64_t held_ns             # by how much a steady flood was held up, all told
    int error                   # the errno that ended it
    Gaps gaps

cdef struct Sending:            # a ring of frames that are made but not sent yet
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    Made made[BATCH]
    int64_t dues[BATCH]
    uint32_t first
    uint32_t ready

cdef struct Live:               # the data of the thread in the system call
    uint8_t attributes[ATTRIBUTES_ROOM]
    uint32_t attributes_length
    uint64_t* head
    uint64_t* tail
    bint stopping
    int64_t cpu_ns
    int error


cdef void sleep_until(int64_t at_ns) noexcept nogil:
    cdef timespec at
    at.tv_sec = at_ns // 1000000000
    at.tv_nsec = at_ns % 1000000000
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL)


cdef int link_error(int control_fd, int ifindex) noexcept nogil:
    """0, or the errno why no frame can be sent: ENODEV, ENETDOWN."""
    cdef ifreq request
    memset(&request, 0, sizeof(request))
    request.ifr_ifindex = ifindex
    if ioctl(control_fd, SIOCGIFNAME, &request) < 0 or ioctl(control_fd, SIOCGIFFLAGS,
                                                             &request) < 0:
        return ENODEV
    return 0 if request.ifr_flags & IFF_UP and request.ifr_flags & IFF_RUNNING else ENETDOWN


cdef void on_signal(int number) noexcept nogil:
    """Does nothing: the signal itself ends the system call."""


cdef void* run_program(void* argument) noexcept nogil:
    """The thread in the system call. Set `stopping`, then end it by a signal."""
    cdef Live* live = <Live*>argument
    cdef sigset_t blocked
    sigfillset(&blocked)
    sigdelset(&blocked, SIGURG)
    pthread_sigmask(SIG_SETMASK, &blocked, NULL)
    setpriority(PRIO_PROCESS, <unsigned int>syscall(SYS_gettid), -20)
    while not load_flag(&live.stopping):
        if syscall(SYS_bpf, <long>BPF_PROG_TEST_RUN, live.attributes,
                   <long>live.attributes_length) < 0 and errno != EINTR and errno != EAGAIN:
            live.error = errno
            break
    live.cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID)
    return NULL


cdef inline bint load_flag(const bint* flag) noexcept nogil:
    return (<volatile bint*>flag)[0]


cdef class Flood:
    """Sends the frames of a source; `run` in one thread, `facts` and `stop` from any.

    backend: of loadtest/backends.py, open. pace: when frames are due; duration_ns: how long; count:
    end after so many frames, 0: no limit. steady: after it was held up, it goes on at its pace and
    sends fewer frames, instead of a burst of those that were due meanwhile (sendmmsg). `run` raises
    OSError for errors of the kernel; a lost link ends it: `facts()["link_lost"]` has the reason.
    """

    cdef FrameSource source
    cdef Pace pace
    cdef object backend
    cdef Progress progress
    cdef int64_t duration_ns, start_ns
    cdef uint64_t count, made_count
    cdef int control_fd, ifindex
    cdef bint exhausted         # no frame follows before the end,
    cdef bint drained           # since there is no further one
    cdef bint steady
    cdef int64_t lead_ns
    cdef volatile bint stopping
    # of live frames
    cdef Live live
    cdef uint8_t* slots
    cdef uint64_t slot_bytes, slot_count, taken, filled
    cdef Made* made
    cdef int64_t* dues

    def __init__(self, FrameSource source not None, backend, *, Pace pace not None,
                 int64_t duration_ns, uint64_t count=0, bint steady=False):
        if duration_ns <= 0:
            raise ValueError("a flood needs a duration above 0")
        memset(&self.progress, 0, sizeof(Progress))
        self.source, self.pace, self.backend = source, pace, backend
        self.duration_ns, self.count, self.steady = duration_ns, count, steady
        self.lead_ns = LEAD_MAX_NS
        self.control_fd, self.ifindex = backend.control_fd, backend.ifindex

    def __dealloc__(self):
        free(self.made)
        free(self.dues)

    def stop(self) -> None:
        """Ends `run` within a few milliseconds."""
        self.stopping = True

    def run(self) -> None:
        """Sends until the duration, the count or the source ends, `stop`, or the link is lost."""
        cdef unsigned int thread = <unsigned int>syscall(SYS_gettid)
        cdef int nice = getpriority(PRIO_PROCESS, thread)
        cdef int slack = prctl(PR_GET_TIMERSLACK, 0)
        cdef int policy = sched_getscheduler(0)
        cdef sched_param parameters, first
        sched_getparam(0, &parameters)
        first.sched_priority = 1
        if self.progress.begun_at_ns:
            raise ValueError("a flood runs once")
        setpriority(PRIO_PROCESS, thread, -20)
        if not self.pace.unpaced:
            # Without a right to it, it has the priority of above. A thread that never sleeps would
            # gain nothing: the kernel stops it for others now and then.
            sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first)
        prctl(PR_SET_TIMERSLACK, 1)
        cdef int64_t cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID)
        try:
            if self.backend.name == "live":
                self.run_live()
            else:
                self.run_sendmmsg()
        finally:
            self.progress.cpu_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_ns
            sched_setscheduler(0, policy, &parameters)
            setpriority(PRIO_PROCESS, thread, nice)
            prctl(PR_SET_TIMERSLACK, slack)
        if self.progress.error and self.progress.error not in LINK_LOST:
            raise OSError(self.progress.error, self.backend.name)

    def facts(self) -> dict:
        """What was sent so far; may be called while another thread is in `run`.

        sent; kinds: {word: frames}; refused: calls that failed because a queue was full, and were
        repeated; seconds; rate: frames/s since the beginning; gaps: see _pace.judge_gaps, None if
        they are not measured (live frames without a pace); link_lost: None, "removed" or "down";
        held_seconds: by how much a steady flood was held up, all told; cpu_seconds,
        sender_cpu_seconds: of run's thread and of the other one, set at the end.
        """
        cdef Progress* progress = &self.progress
        ended_at_ns = progress.ended_at_ns or clock_ns(CLOCK_MONOTONIC)
        seconds = (ended_at_ns - progress.begun_at_ns) / 1e9 if progress.begun_at_ns else 0.0
        kinds = {word: progress.kinds[i] for i, word in enumerate(self.source.kinds)
                 if progress.kinds[<int>i]}
        measured = progress.gaps.histogram.total > 0
        lost = "down" if progress.error == ENETDOWN else "removed"
        return {"sent": progress.sent, "kinds": kinds, "refused": progress.refused,
                "seconds": seconds, "rate": progress.sent / seconds if seconds else 0.0,
                "gaps": gaps_facts(&progress.gaps, not self.pace.unpaced) if measured else None,
                "link_lost": lost if progress.error in LINK_LOST else None,
                "held_seconds": progress.held_ns / 1e9,
                "cpu_seconds": progress.cpu_ns / 1e9,
                "sender_cpu_seconds": progress.sender_cpu_ns / 1e9}

    # --- both --------------------------------------------------------------------------------

    cdef void count_sent(self, const Made* made, int64_t at_ns, int64_t due_ns) noexcept nogil:
        self.progress.kinds[made.kind] += 1
        self.progress.sent += 1
        if at_ns:
            gaps_add(&self.progress.gaps, at_ns, due_ns)

    cdef bint make(self, uint8_t* frame, Made* made, int64_t* due_ns, int64_t until_ns,
                   int64_t before_ns) noexcept nogil:
        """Make the next frame, if one is due before both times; notes the end of the source."""
        if self.exhausted:
            return False
        due_ns[0] = self.progress.begun_at_ns + self.progress.held_ns + self.pace.due_ns()
        if due_ns[0] >= before_ns and due_ns[0] < until_ns:
            return False
        if due_ns[0] >= until_ns:
            self.exhausted = True
            return False
        if not self.source.make(frame, made):
            self.exhausted = self.drained = True
            return False
        self.pace.advance()
        self.made_count += 1
        self.exhausted = self.drained = self.made_count == self.count
        return True

    cdef bint is_over(self, int64_t now_ns, int64_t until_ns, int64_t* look_at_ns) noexcept nogil:
        if now_ns >= until_ns or self.stopping:
            return True
        if now_ns >= look_at_ns[0]:
            look_at_ns[0] = now_ns + LOOK_NS
            if not self.progress.error:
                self.progress.error = link_error(self.control_fd, self.ifindex)
        return self.progress.error != 0

    # --- sendmmsg ----------------------------------------------------------------------------

    cdef object run_sendmmsg(self):
        cdef uint32_t i, room = (self.source.longest + 63) & ~<uint32_t>63
        cdef Sending* sending = <Sending*>calloc(1, sizeof(Sending) + BATCH * room)
        cdef int fd = self.backend.fd
        if sending == NULL:
            raise MemoryError("flood")
        for i in range(BATCH):
            sending.vectors[i].iov_base = <uint8_t*>(sending + 1) + i * room
            sending.messages[i].msg_hdr.msg_iov = &sending.vectors[i]
            sending.messages[i].msg_hdr.msg_iovlen = 1
        try:
            with nogil:
                self.send_all(sending, fd)
        finally:
            self.source.finish()
            while sending.ready:
                sending.ready -= 1
                self.source.give_back(&sending.made[(sending.first + sending.ready) % BATCH])
            free(sending)

    cdef void send_all(self, Sending* sending, int fd) noexcept nogil:
        cdef Progress* progress = &self.progress
        cdef int64_t now_ns = clock_ns(CLOCK_MONOTONIC), look_at_ns = 0, until_ns, wait_ns
        progress.begun_at_ns = now_ns
        until_ns = now_ns + self.duration_ns
        while not self.is_over(now_ns, until_ns, &look_at_ns):
            while sending.ready < BATCH and self.make_one(sending, until_ns, now_ns + 1):
                pass
            if not sending.ready and not self.make_one(sending, until_ns, until_ns):
                if self.drained:
                    break
                wait_ns = until_ns                  # no more frames are due
            else:
                wait_ns = sending.dues[sending.first]
            if wait_ns <= now_ns:
                if self.steady and now_ns - wait_ns > STEADY_NS:
                    self.put_off(sending, now_ns - wait_ns)
                self.send_due(sending, fd, now_ns)
            elif wait_ns - now_ns > self.lead_ns + SLEEP_NS:
                self.sleep(min(wait_ns - self.lead_ns, now_ns + LOOK_NS))
            now_ns = clock_ns(CLOCK_MONOTONIC)
        progress.ended_at_ns = clock_ns(CLOCK_MONOTONIC)

    cdef void sleep(self, int64_t until_ns) noexcept nogil:
        """Sleep, and learn how long waking up takes. What is left is waited for awake."""
        sleep_until(until_ns)
        cdef int64_t late_ns = min(clock_ns(CLOCK_MONOTONIC) - until_ns, LEAD_MAX_NS)
        self.lead_ns += (late_ns + late_ns // 4 - self.lead_ns) // 16
        self.lead_ns = max(LEAD_MIN_NS, min(self.lead_ns, LEAD_MAX_NS))

    cdef void put_off(self, Sending* sending, int64_t held_ns) noexcept nogil:
        """Send the frames that are ready, and all that follow, so much later."""
        cdef uint32_t i
        self.progress.held_ns += held_ns
        for i in range(sending.ready):
            sending.dues[(sending.first + i) % BATCH] += held_ns

    cdef bint make_one(self, Sending* sending, int64_t until_ns, int64_t before_ns) noexcept nogil:
        cdef uint32_t place = (sending.first + sending.ready) % BATCH
        if not self.make(<uint8_t*>sending.vectors[place].iov_base, &sending.made[place],
                         &sending.dues[place], until_ns, before_ns):
            return False
        sending.vectors[place].iov_len = sending.made[place].length
        sending.ready += 1
        return True

    cdef void send_due(self, Sending* sending, int fd, int64_t now_ns) noexcept nogil:
        """Send the frames that are due in one call; frames that it did not take stay ready."""
        cdef uint32_t i, place, count = 0, most = min(sending.ready, BATCH - sending.first)
        cdef int64_t done_at_ns
        cdef int sent
        cdef pollfd watched
        while count < most and sending.dues[sending.first + count] <= now_ns:
            count += 1
        self.source.finish()
        if self.source.stamped:
            done_at_ns = clock_ns(CLOCK_REALTIME)
            for i in range(count):
                place = sending.first + i
                wire_put_stamp(<uint8_t*>sending.vectors[place].iov_base
                               + sending.made[place].length - STAMP_LENGTH, done_at_ns)
        sent = sendmmsg(fd, &sending.messages[sending.first], count, MSG_DONTWAIT)
        if sent < 0:
            if errno == EAGAIN:
                watched.fd, watched.events = fd, POLLOUT
                self.progress.refused += 1
                poll(&watched, 1, 1)
            elif errno == ENOBUFS:
                self.progress.refused += 1
            elif errno != EINTR:
                self.progress.error = errno
            return
        done_at_ns = clock_ns(CLOCK_MONOTONIC)
        for i in range(<uint32_t>sent):
            # Frames of one call are sent one after the other: their single times are unknown.
            self.count_sent(&sending.made[sending.first + i],
                            now_ns + (done_at_ns - now_ns) * (i + 1) // sent,
                            sending.dues[sending.first + i])
        sending.first = (sending.first + <uint32_t>sent) % BATCH
        sending.ready -= <uint32_t>sent

    # --- live frames -------------------------------------------------------------------------

    cdef object run_live(self):
        cdef Py_buffer slots, control
        cdef bytes attributes = self.backend.attributes
        self.slot_bytes, self.slot_count = self.backend.slot_bytes, self.backend.slot_count
        self.start_ns = self.backend.start_ns
        self.made = <Made*>calloc(self.slot_count, sizeof(Made))
        self.dues = <int64_t*>calloc(self.slot_count, sizeof(int64_t))
        if self.made == NULL or self.dues == NULL or len(attributes) > ATTRIBUTES_ROOM:
            raise MemoryError("flood")
        memset(&self.live, 0, sizeof(Live))
        memcpy(self.live.attributes, <const char*>attributes, len(attributes))
        self.live.attributes_length = <uint32_t>len(attributes)
        PyObject_GetBuffer(self.backend.slots, &slots, PyBUF_WRITABLE)
        try:
            PyObject_GetBuffer(self.backend.control, &control, PyBUF_WRITABLE)
            try:
                self.slots = <uint8_t*>slots.buf
                self.live.head = <uint64_t*>(<uint8_t*>control.buf + HEAD_AT)
                self.live.tail = <uint64_t*>(<uint8_t*>control.buf + TAIL_AT)
                self.live.head[0] = 0               # another flood may have sent before
                with nogil:
                    self.feed_all()
            finally:
                PyBuffer_Release(&control)
        finally:
            PyBuffer_Release(&slots)

    cdef void feed_all(self) noexcept nogil:
        """Fill the ring before the first frame leaves, and keep it full until the end."""
        cdef Progress* progress = &self.progress
        cdef sigaction_t handler, before
        cdef pthread_t thread
        cdef int64_t until_ns
        memset(&handler, 0, sizeof(handler))
        handler.sa_handler = on_signal
        sigaction(SIGURG, &handler, &before)
        progress.begun_at_ns = clock_ns(CLOCK_MONOTONIC)
        if not self.pace.unpaced:
            progress.begun_at_ns += self.start_ns   # a beginning that the first frames can meet
        until_ns = progress.begun_at_ns + self.duration_ns
        while self.fill(until_ns):
            pass
        progress.error = pthread_create(&thread, NULL, run_program, &self.live)
        if not progress.error:
            if self.pace.unpaced:
                progress.begun_at_ns = clock_ns(CLOCK_MONOTONIC)
                until_ns = progress.begun_at_ns + self.duration_ns
            self.keep_full(until_ns)
            store_release(self.live.tail, 0)
            progress.ended_at_ns = clock_ns(CLOCK_MONOTONIC)
            self.live.stopping = True
            while pthread_tryjoin_np(thread, NULL):
                # It may have read `stopping` just before, and enter the call after a signal.
                pthread_kill(thread, SIGURG)
                sleep_until(clock_ns(CLOCK_MONOTONIC) + SLOTS_SLEEP_NS)
            progress.sender_cpu_ns = self.live.cpu_ns
            progress.error = progress.error or self.live.error
        self.account()
        while self.filled > self.taken:
            self.filled -= 1
            self.source.give_back(&self.made[self.filled & (self.slot_count - 1)])
        sigaction(SIGURG, &before, NULL)

    cdef void keep_full(self, int64_t until_ns) noexcept nogil:
        cdef int64_t now_ns = clock_ns(CLOCK_MONOTONIC), look_at_ns = 0
        while not self.is_over(now_ns, until_ns, &look_at_ns) and not self.live.error:
            self.account()
            if not self.fill(until_ns):
                if self.drained and self.taken == self.filled:
                    break
                sleep_until(now_ns + SLOTS_SLEEP_NS)
            now_ns = clock_ns(CLOCK_MONOTONIC)

    cdef bint fill(self, int64_t until_ns) noexcept nogil:
        """Put up to PIECE frames into the ring; False if it is full or no frame is left."""
        cdef uint64_t place, end = min(self.taken + self.slot_count, self.filled + PIECE)
        cdef uint64_t before = self.filled
        cdef uint8_t* slot
        cdef Made* made
        while self.filled < end:
            place = self.filled & (self.slot_count - 1)
            slot = self.slots + place * self.slot_bytes
            made = &self.made[place]
            if not self.make(slot + SLOT_HEAD, made, &self.dues[place], until_ns, until_ns):
                break
            (<int64_t*>slot)[0] = self.dues[place]
            (<int64_t*>slot)[1] = <int64_t>made.length - <int64_t>self.source.longest
            self.filled += 1
        if self.filled == before:
            return False
        self.source.finish()
        store_release(self.live.tail, self.filled)
        return True

    cdef void account(self) noexcept nogil:
        """Count the frames that the program has taken since."""
        cdef uint64_t place, head = load_acquire(self.live.head)
        cdef int64_t at_ns
        while self.taken < head:
            place = self.taken & (self.slot_count - 1)
            at_ns = (<int64_t*>(self.slots + place * self.slot_bytes))[0]
            self.count_sent(&self.made[place], 0 if self.pace.unpaced else at_ns,
                            self.dues[place])
            self.taken += 1
