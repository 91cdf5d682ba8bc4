"""The pump's thread: its scheduling, what it waits for, and how a thread is started.

A thread never takes the GIL. The pump asks for real time; where its budget is spent, it becomes an
ordinary thread and goes on.
"""

from libc.errno cimport errno
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport strerror

from carp_fast.pump._environment cimport (
    PumpState, SCHEDULED_FIFO, SCHEDULED_NICE, note_woken, run_due)
from carp_fast.pump._freezing cimport freeze_now, stay_frozen
from carp_fast.pump._turn cimport RECEIVERS_MAX

cdef extern from "system.h" nogil:
    int EPOLL_CTL_ADD, EPOLLIN
    int SCHED_OTHER, SCHED_FIFO, SCHED_RESET_ON_FORK, SIG_SETMASK, SIGXCPU, PRIO_PROCESS
    long SYS_gettid
    struct epoll_event:
        uint32_t events
        int fd "data.fd"
    struct sched_param:
        int sched_priority
    ctypedef struct sigset_t:
        pass
    ctypedef void (*sighandler_t)(int) noexcept nogil
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int count, int timeout)
    ssize_t read(int fd, void* data, size_t length)
    long syscall(long number)
    int sched_setscheduler(int pid, int policy, const sched_param* param)
    int setpriority(int which, unsigned int who, int priority)
    int sigfillset(sigset_t* set)
    int pthread_sigmask(int how, const sigset_t* set, sigset_t* old)
    int pthread_create(pthread_t* thread, void* attributes, void* (*start)(void*) noexcept nogil,
                       void* argument)
    sighandler_t signal(int number, sighandler_t handler)


cdef object system_error(int error):
    """An OSError with the text of its errno."""
    return OSError(error, strerror(error).decode())


cdef int add_to_epoll(int epoll_fd, int fd) except -1:
    """Have the epoll tell when a descriptor is readable. Raises OSError."""
    cdef epoll_event event
    event.events = EPOLLIN
    event.fd = fd
    if epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
        raise system_error(errno)
    return 0


# For the handler of SIGXCPU, which has no argument: the pump that runs in real time, if any.
cdef PumpState* real_time_pump = NULL


cdef void on_budget_spent(int number) noexcept nogil:
    """RLIMIT_RTTIME: the real-time thread ran too long without sleeping; make it a normal one.

    Only async-signal-safe calls here.
    """
    cdef sched_param parameters
    parameters.sched_priority = 0
    if real_time_pump != NULL:
        sched_setscheduler(real_time_pump.thread_id, SCHED_OTHER, &parameters)
        real_time_pump.lost_priority = True


cdef void watch_budget() noexcept nogil:
    """Continue at normal priority where the budget of real time is spent, instead of dying."""
    signal(SIGXCPU, on_budget_spent)


cdef void pump_forget(PumpState* pump) noexcept nogil:
    """The pump is about to be freed, and its thread has ended."""
    global real_time_pump
    if real_time_pump == pump:
        real_time_pump = NULL


cdef void ask_for_scheduling(PumpState* pump) noexcept nogil:
    """Try SCHED_FIFO at the lowest priority, then nice -20. Children do not inherit it."""
    global real_time_pump
    cdef sched_param parameters
    parameters.sched_priority = 1
    pump.thread_id = <int32_t>syscall(SYS_gettid)
    if pump.wanted_scheduling == SCHEDULED_FIFO:
        real_time_pump = pump
        if sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &parameters) == 0:
            pump.scheduling = SCHEDULED_FIFO
            return
    if pump.wanted_scheduling and setpriority(PRIO_PROCESS, <unsigned int>pump.thread_id, -20) == 0:
        pump.scheduling = SCHEDULED_NICE


cdef void wait_and_run(PumpState* pump, int timeout) noexcept nogil:
    """Wait for the timer, an order or a frame, then run a turn."""
    cdef epoll_event events[2 + RECEIVERS_MAX]
    cdef uint64_t value
    cdef int i, count = epoll_wait(pump.epoll_fd, events, 2 + RECEIVERS_MAX, timeout)
    for i in range(count):
        if events[i].fd == pump.timer_fd or events[i].fd == pump.order_fd:
            read(events[i].fd, &value, sizeof(value))
        else:
            note_woken(pump, events[i].fd)
    run_due(pump)


cdef void* pump_thread(void* argument) noexcept nogil:
    cdef PumpState* pump = <PumpState*>argument
    cdef int timeout = -1
    ask_for_scheduling(pump)
    while not pump.stopping:
        wait_and_run(pump, timeout)
        timeout = -1
        if freeze_now(pump):
            stay_frozen(pump)
            timeout = 0                         # frames wait
    return NULL


cdef int start_thread(pthread_t* thread, void* (*start)(void*) noexcept nogil,
                      void* argument) noexcept nogil:
    """Start a thread that gets no signals: 0, or an errno."""
    cdef sigset_t all_signals, before
    sigfillset(&all_signals)
    pthread_sigmask(SIG_SETMASK, &all_signals, &before)
    cdef int error = pthread_create(thread, NULL, start, argument)
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    return error
