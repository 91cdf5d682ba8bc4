"""Requests to the kernel for addresses: a ring, and the thread that works them off.

The kernel changes addresses under one lock for the whole machine, which any program may hold for
seconds. So the pump puts its requests into this ring, by value, and never waits; a thread of its
own sends them and wakes the pump when it has outcomes. The ring has one place for a request and its
outcome, and three marks: requested, done, taken. A change whose host wants something else since is
not sent any more. Must not know the engine, nor what a request is for.
"""

from libc.errno cimport ESTALE
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from carp_fast.pump._changes cimport netlink_carry_out, netlink_put, netlink_put_route
from carp_fast.pump._existing cimport netlink_look
from carp_fast.pump._look cimport ROUTES_DUE, ROUTES_NONE
from carp_fast.pump._netlink cimport CHANGES
from carp_fast.pump._turn cimport AddressChange

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

cdef enum:
    BATCH6_MAX = 8              # IPv6 addresses in a batch, whatever the last ones cost
    ROUTES_SHARE = 1000         # a periodic look at routes waits this times the cost of the last

# How long one batch should hold the kernel's lock: an IPv6 address may take milliseconds where an
# interface has many, an IPv4 one microseconds, and other programs wait.
cdef int64_t BATCH_NS = 5000000
cdef int64_t COST_MIN_NS = 1000


# ---------------------------------------------------------------------------------- in the pump

cdef void requests_open(Requests* requests) noexcept nogil:
    """Begin with batches of a few changes, until their cost is known."""
    requests.cost_ns[<int>COST_ADDRESS] = BATCH_NS // 16
    requests.cost_ns[<int>COST_ADDRESS6] = BATCH_NS // 3
    requests.cost_ns[<int>COST_ROUTE] = BATCH_NS // 64


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


cdef inline Cost cost_of(const Request* request) noexcept nogil:
    if request.change.address.family == 6:
        return COST_ADDRESS6
    return COST_ROUTE if request.change.address.routed else COST_ADDRESS


cdef void put_change(Requests* requests, const Request* request) noexcept nogil:
    cdef const AddressChange* change = &request.change
    if change.address.routed:
        netlink_put_route(&requests.netlink, change.added, change.ifindex, change.address.bytes)
    else:
        netlink_put(&requests.netlink, change.added, change.ifindex, change.address.family,
                    change.preferred, change.address.prefixlen, change.address.bytes)


cdef uint32_t put_batch(Requests* requests, uint64_t tail, uint32_t* counts) noexcept nogil:
    """Fill a batch with the changes that come next: how many requests; `counts`: by Cost.

    As many as BATCH_NS allows by what such changes cost last, one at least.
    """
    cdef uint64_t at = requests.done
    cdef int64_t spent_ns = 0
    cdef Request* request
    cdef Cost cost
    requests.netlink.count = requests.netlink.used = 0
    while at != tail and requests.netlink.count < CHANGES:
        request = &requests.ring[at & (REQUESTS - 1)]
        if request.parts:
            break
        request.promoted = 0
        cost = cost_of(request)
        if is_wanted(request):
            spent_ns += requests.cost_ns[<int>cost]
            if requests.netlink.count and (spent_ns > BATCH_NS or (
                    cost == COST_ADDRESS6 and counts[<int>cost] == BATCH6_MAX)):
                break
            counts[<int>cost] += 1
            requests.batch[requests.netlink.count] = <uint32_t>at & (REQUESTS - 1)
            put_change(requests, request)
        else:
            request.change.error = ESTALE
        at += 1
    return <uint32_t>(at - requests.done)


cdef void adapt(Requests* requests, const uint32_t* counts, int64_t took_ns) noexcept nogil:
    """Correct the costs by the time that a batch took: down to the half at most, or up."""
    cdef double expected_ns = 0, part
    cdef int i
    for i in range(COSTS):
        expected_ns += <double>requests.cost_ns[i] * counts[i]
    part = max(took_ns / expected_ns, 0.5)
    for i in range(COSTS):
        if counts[i]:
            requests.cost_ns[i] = max(<int64_t>(requests.cost_ns[i] * part), COST_MIN_NS)


cdef uint32_t change_some(Requests* requests, uint64_t tail) noexcept nogil:
    """Carry out a batch of changes: for how many requests there is an outcome."""
    cdef uint32_t[<int>COSTS] counts
    cdef uint32_t i, k, count
    cdef int64_t since_ns
    cdef Request* request
    memset(counts, 0, sizeof(counts))
    count = put_batch(requests, tail, counts)
    if requests.netlink.count == 0:
        return count
    since_ns = clock_ns(CLOCK_MONOTONIC)
    netlink_carry_out(&requests.netlink)
    adapt(requests, counts, clock_ns(CLOCK_MONOTONIC) - since_ns)
    for i in range(requests.netlink.count):
        request = &requests.ring[requests.batch[i]]
        request.change.error = requests.netlink.changes[i].error
        request.change.was_ours = requests.netlink.changes[i].was_ours
        for k in range(requests.netlink.promoted_count):
            if requests.netlink.promoted[k] == request.change.ifindex:
                request.promoted, requests.netlink.promoted[k] = 1, 0       # the first alone
                request.promote_error = requests.netlink.promote_errors[k]
    return count


cdef int look(Requests* requests, const Request* request) noexcept nogil:
    """Carry out one part of a look: 0 or an errno.

    A periodic one reads local routes only if it takes a small part of the time: the kernel may have
    to walk all routes of the machine. A later part follows the first.
    """
    cdef int64_t since_ns = clock_ns(CLOCK_MONOTONIC)
    cdef bint routes = request.routes != ROUTES_NONE and (
        request.routes == ROUTES_DUE or since_ns >= requests.routes_at_ns
        or request.part and requests.looked.routes)
    cdef int error = netlink_look(&requests.netlink, &requests.looked, request.change.ifindex,
                                  request.part, request.parts, routes)
    cdef int64_t now_ns
    if routes:
        now_ns = clock_ns(CLOCK_MONOTONIC)
        requests.routes_at_ns = now_ns + ROUTES_SHARE * (now_ns - since_ns)
    return error


cdef void requests_work_off(Requests* requests) noexcept nogil:
    """Carry out all requests that wait, and wake the pump after each batch."""
    cdef uint64_t tail = load_acquire(&requests.tail), one = 1
    cdef uint32_t count
    cdef Request* request
    while requests.done != tail and not requests.stopping:
        request = &requests.ring[requests.done & (REQUESTS - 1)]
        if request.parts:
            request.change.error = look(requests, request)
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
