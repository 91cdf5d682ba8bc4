"""One turn: its order, its limits and its state, and the environment that it needs."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._core cimport Core
from carp_fast.engine._lanes cimport Lanes
from carp_fast.engine._receive cimport Onlooker
from carp_fast.engine._upkeep cimport Finder
from carp_fast.engine._vhid cimport Address, Block
from carp_fast.engine._wire cimport FRAME_ROOM
from carp_fast.pump._arrivals cimport BATCH_MAX, Intake, Receiver
from carp_fast.pump._look cimport Look

cdef enum:
    CHANGES_MAX = 128           # addresses changed at once, at most
    RECEIVERS_MAX = 9           # a ring, or a packet socket, and raw ones of each family, by lane

cdef enum Phase:
    BETWEEN                     # between two turns
    RECEIVING
    CARRYING_OUT

cdef struct Outgoing:           # a frame to be sent
    const uint8_t* bytes
    uint32_t length
    int32_t ifindex
    uint32_t slot               # of the host
    uint32_t which              # which of its outputs or addresses
    uint32_t at                 # of an announcement: the number of the frame
    uint8_t last                # ... and whether it ends there
    uint8_t family
    uint8_t unicast             # the kernel routes it to a peer; otherwise to a group's MAC
    int32_t error               # errno of sending it; 0: sent

cdef struct AddressChange:      # by value: the host may change, or be gone, before the outcome
    Address address
    uint32_t slot
    uint32_t which              # of the host's addresses, then
    uint16_t generation         # of the host, then: of another one it is not carried out any more
    int32_t ifindex
    uint8_t preferred
    uint8_t added               # otherwise removed
    uint8_t was_ours            # not added: it existed, with our mark
    int32_t error               # EEXIST: another program's; EAGAIN: unknown; ESTALE: not done

cdef struct Environment:        # called once a batch, except now() and obey_next()
    int64_t (*now)(void* where) noexcept nogil              # CLOCK_MONOTONIC
    int64_t (*suspended)(void* where) noexcept nogil        # CLOCK_BOOTTIME less CLOCK_MONOTONIC
    # Carries out the next order; False: none is left.
    bint (*obey_next)(void* where, int64_t now_ns) noexcept nogil
    # Reads `batch` frames at most from a receiver: how many, or minus the errno. The time of
    # arrival is CLOCK_MONOTONIC, or, of a socket, the kernel's wall-clock time minus the current
    # difference to it.
    int (*receive)(void* where, uint32_t which, Intake* intake) noexcept nogil
    # Frames that a receiver has dropped since the last call.
    uint32_t (*drops)(void* where, uint32_t which) noexcept nogil
    void (*advertise)(void* where, Outgoing* frames, uint32_t count) noexcept nogil
    void (*announce)(void* where, Outgoing* frames, uint32_t count) noexcept nogil
    # The kernel changes and reads addresses aside, in the order of the requests, and may take
    # seconds. How many requests there is room for now:
    uint32_t (*room)(void* where) noexcept nogil
    void (*change)(void* where, const AddressChange* changes, uint32_t count) noexcept nogil
    # The next outcomes, `count` at most, but none beyond that of a look: how many.
    uint32_t (*changed)(void* where, AddressChange* changes, uint32_t count) noexcept nogil
    # Requests the addresses of an interface, those of one part.
    void (*look)(void* where, const Look* look) noexcept nogil
    # Whether the next outcome is that of the look. `error`: an errno; E2BIG requires more parts,
    # ENODEV means that the interface is gone. find() then has the result for each of ours.
    bint (*looked)(void* where, int* error) noexcept nogil
    Finder find
    Onlooker onlooker           # called for each frame heard; NULL: none

cdef struct Progress:           # within a host's addresses, which may be more than a batch
    uint32_t slot               # the host, or NOBODY
    uint32_t at                 # its next address
    uint32_t until              # of an announcement: the frame before which it ends, or pauses
    Block* block                # of the host at the beginning; maybe replaced or released since

cdef struct Turn:
    Core* core
    const Environment* environment
    void* where                 # argument of the environment's functions
    Receiver receivers[RECEIVERS_MAX]
    uint32_t receiver_count
    Lanes lanes
    # Tests set smaller limits, to see the effects of reaching them.
    uint32_t batch
    uint32_t slices             # batches of the genuine lane before orders are taken
    uint32_t changes
    uint8_t phase
    uint32_t slice              # of this phase, so far
    bint any_frame              # arrived in this turn
    bint more                   # something is left to do immediately
    bint draining               # nothing new is asked of the kernel: see _drain.pyx
    bint watching               # a frame begins a turn; otherwise frames wait for a tick
    int64_t begun_ns            # when the last turn began; 0: none yet
    int64_t ends_ns             # what is left to do then waits for the next turn
    int64_t planned_ns          # when the next one is due; 0: only after an event
    int64_t heard_until_ns      # silence counts up to here
    int64_t suspended_ns        # CLOCK_BOOTTIME less CLOCK_MONOTONIC
    int64_t latest_ns           # the largest lateness of a planned turn so far
    uint64_t turns
    uint64_t frames
    uint64_t dropped
    uint64_t unproven           # ... of these, the ones after which silence proves nothing
    uint64_t untold[2]          # dropped and not reported yet; [1]: silence proves nothing
    int64_t drops_told_ns[2]    # when that was last reported
    Progress changing
    Progress announcing
    Look looking
    uint32_t asked              # changes without an outcome
    Intake intake
    Outgoing outgoing[BATCH_MAX]
    AddressChange pending[CHANGES_MAX]
    uint32_t changed[CHANGES_MAX]       # hosts whose changes end in this batch
    uint8_t announcements[BATCH_MAX][FRAME_ROOM]

cdef void turn_open(Turn* turn, Core* core, const Environment* environment, void* where,
                    uint32_t batch, uint32_t slices, uint32_t changes) noexcept nogil
cdef void turn_add_receiver(Turn* turn, uint8_t lane) noexcept nogil
cdef bint turn_step(Turn* turn) noexcept nogil
cdef bint turn_is_settled(const Turn* turn) noexcept nogil
cdef bint turn_is_idle(const Turn* turn) noexcept nogil
