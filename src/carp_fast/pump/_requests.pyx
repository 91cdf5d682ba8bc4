"""Requests to the kernel for addresses: a ring, and the thread that works them off.

The kernel changes addresses under one lock for the whole machine, which any program may hold for
seconds. So the pump puts its requests into this ring, by value, and never waits; a thread of its
own sends them and wakes the pump when it has outcomes. The ring has one place for a request and its
outcome, and three marks: requested, done, taken. A change whose host wants something else since is
not sent any more. Must not know the engine, nor what a request is for.
"""

from libc.errno cimport ESTALE
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from carp_fast.pump._changes cimport netlink_carry_out, netlink_put
from carp_fast.pump._existing cimport netlink_look
from carp_fast.pump._netlink cimport CHANGES

cdef extern from "atomic.h" nogil:
    uint64_t load_acquire(const uint64_t* p) noexcept
    void store_release(uint64_t* p, uint64_t x) noexcept
    uint16_t load_acquire_16(const uint16_t* p) noexcept

cdef extern from "system.h" nogil:
    int64_t clock_ns(int clock) noexcept
    int CLOCK_MONOTONIC, PRIO_PROCESS
    long SYS_gettid
    ssize_t read(int fd, void* data, size_t length)
    ssize_t write(int fd, const void* data, size_t length)
    long syscall(long number)
    int setpriority(int which, unsigned int who, int priority)

# How long one batch should hold the kernel's lock: an IPv6 address may take milliseconds where an
# interface has many, an IPv4 one microseconds, and other programs wait.
cdef int64_t BATCH_NS = 5000000


# ---------------------------------------------------------------------------------- in the pump

cdef uint32_t requests_room(const Requests* requests) noexcept nogil:
    """How many requests fit into the ring now."""
    return REQUESTS - <uint32_t>(requests.tail - requests.head)


cdef Request* requests_next(Requests* requests) noexcept nogil:
    """The place of the next request, to be filled before requests_put()."""
    return &requests.ring[requests.tail & (REQUESTS - 1)]


cdef void requests_put(Requests* requests) noexcept nogil:
    """Hand over the request at requests_next(); the caller wakes the thread once for all."""
    store_release(&requests.tail, requests.tail + 1)


cdef Request* requests_outcome(Requests* requests) noexcept nogil:
    """The oldest request, if it has its outcome, or NULL."""
    if requests.head == load_acquire(&requests.done):
        return NULL
    return &requests.ring[requests.head & (REQUESTS - 1)]


cdef void requests_take(Requests* requests) noexcept nogil:
    """Free the place of requests_outcome()."""
    requests.head += 1


cdef bint requests_wait(const Requests* requests) noexcept nogil:
    """Whether a request has no outcome yet."""
    return load_acquire(&requests.done) != requests.tail


# -------------------------------------------------------------------------------- in the thread

cdef inline bint is_wanted(const Request* request) noexcept nogil:
    return load_acquire_16(request.generation) == request.change.generation


cdef uint32_t put_batch(Requests* requests, uint64_t tail, uint32_t* sent) noexcept nogil:
    """Fill a batch with the changes that come next: how many requests; `sent`: in the batch."""
    cdef uint64_t at = requests.done
    cdef Request* request
    requests.netlink.count = requests.netlink.used = 0
    while at != tail and requests.netlink.count < requests.most:
        request = &requests.ring[at & (REQUESTS - 1)]
        if request.parts:
            break
        request.promoted = 0
        if is_wanted(request):
            requests.batch[requests.netlink.count] = <uint32_t>at & (REQUESTS - 1)
            netlink_put(&requests.netlink, request.change.added, request.change.ifindex,
                        request.change.address.family, request.change.preferred,
                        request.change.address.prefixlen, request.change.address.bytes)
        else:
            request.change.error = ESTALE
        at += 1
    sent[0] = requests.netlink.count
    return <uint32_t>(at - requests.done)


cdef void adapt(Requests* requests, uint32_t sent, int64_t took_ns) noexcept nogil:
    """Size the next batch by the time that this one took; it grows to the double at most."""
    cdef int64_t most = BATCH_NS * sent // (took_ns if took_ns else 1)
    requests.most = <uint32_t>max(1, min(most, 2 * <int64_t>requests.most, CHANGES))


cdef uint32_t change_some(Requests* requests, uint64_t tail) noexcept nogil:
    """Carry out a batch of changes: for how many requests there is an outcome."""
    cdef uint32_t sent = 0, i, k, count = put_batch(requests, tail, &sent)
    cdef int64_t since_ns
    cdef Request* request
    if sent == 0:
        return count
    since_ns = clock_ns(CLOCK_MONOTONIC)
    netlink_carry_out(&requests.netlink)
    adapt(requests, sent, clock_ns(CLOCK_MONOTONIC) - since_ns)
    for i in range(sent):
        request = &requests.ring[requests.batch[i]]
        request.change.error = requests.netlink.changes[i].error
        request.change.was_ours = requests.netlink.changes[i].was_ours
        for k in range(requests.netlink.promoted_count):
            if requests.netlink.promoted[k] == request.change.ifindex:
                request.promoted, requests.netlink.promoted[k] = 1, 0       # the first alone
                request.promote_error = requests.netlink.promote_errors[k]
    return count


cdef void requests_work_off(Requests* requests) noexcept nogil:
    """Carry out all requests that wait, and wake the pump after each batch."""
    cdef uint64_t tail = load_acquire(&requests.tail), one = 1
    cdef uint32_t count
    cdef Request* request
    while requests.done != tail and not requests.stopping:
        request = &requests.ring[requests.done & (REQUESTS - 1)]
        if request.parts:
            request.change.error = netlink_look(&requests.netlink, &requests.looked,
                                                request.change.ifindex, request.part,
                                                request.parts)
            count = 1
        else:
            count = change_some(requests, tail)
        store_release(&requests.done, requests.done + count)
        write(requests.done_fd, &one, sizeof(one))
        tail = load_acquire(&requests.tail)


cdef void* requests_thread(void* argument) noexcept nogil:
    """Work off requests until `stopping` is set and `work_fd` is written."""
    cdef Requests* requests = <Requests*>argument
    cdef uint64_t value
    # Before other programs, but not in real time: the kernel may need a core for seconds.
    if requests.wants_priority:
        setpriority(PRIO_PROCESS, <unsigned int>syscall(SYS_gettid), -20)
    while not requests.stopping:
        read(requests.work_fd, &value, sizeof(value))
        requests_work_off(requests)
    return NULL
