"""Requests to the kernel for addresses: a ring, and the thread that works them off."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.pump._netlink cimport CHANGES, Existing, Netlink
from carp_fast.pump._turn cimport AddressChange

cdef enum:
    REQUESTS = 1024             # a power of two

cdef enum Cost:                 # what a change costs depends on this, and on the interface
    COST_ADDRESS
    COST_ADDRESS6
    COST_ROUTE
    COSTS

cdef struct Request:
    AddressChange change        # or a look: at its ifindex
    const uint16_t* generation  # the host's now, to be compared with the change's
    uint32_t part               # of `parts` of a look; 0: a change
    uint32_t parts
    uint8_t routes              # of a look: a Routes
    uint8_t promoted            # promote_secondaries of its interface was not 1
    int promote_error           # ... errno of setting it; 0: it was set to 1

cdef struct Requests:
    Request ring[REQUESTS]
    uint64_t tail               # the pump has requested those before
    uint64_t done               # the thread: those before have their outcome
    uint64_t head               # the pump: it has taken those before
    int work_fd                 # the pump writes, the thread reads
    int done_fd                 # the thread writes, the pump reads
    bint running                # a thread works them off
    bint stopping
    bint wants_priority         # before other threads
    int64_t cost_ns[COSTS]      # of a change, by its last batch
    int64_t routes_at_ns        # when a periodic look may read local routes again
    Netlink netlink
    Existing looked             # the result of the last look
    uint32_t batch[CHANGES]     # places in the ring of the changes of this batch

cdef void requests_open(Requests* requests) noexcept nogil
cdef uint32_t requests_room(const Requests* requests) noexcept nogil
cdef Request* requests_next(Requests* requests) noexcept nogil
cdef void requests_put(Requests* requests) noexcept nogil
cdef Request* requests_outcome(Requests* requests) noexcept nogil
cdef void requests_take(Requests* requests) noexcept nogil
cdef bint requests_wait(const Requests* requests) noexcept nogil
cdef void requests_work_off(Requests* requests) noexcept nogil
cdef void* requests_thread(void* argument) noexcept nogil
