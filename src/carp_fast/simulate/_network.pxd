"""A simulated network: machines, links, frames in flight, order of events, random numbers."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._core cimport Core
from carp_fast.engine._vhid cimport VirtualHost
from carp_fast.engine._wire cimport FRAME_ROOM
from carp_fast.pump._arrivals cimport BATCH_MAX
from carp_fast.pump._turn cimport AddressChange, Outgoing, Turn

cdef extern from "random.h" nogil:
    uint64_t random_next(uint64_t* state) noexcept

cdef enum:
    MACHINES_MAX = 8
    SEGMENTS_MAX = 32
    ADDRESSES_MAX = 16          # of one virtual host
    HISTORY = 64                # frames of a segment that may be replayed
    MISSED_MAX = 64             # remembered times in which a machine could not hear
    CERTAIN = 65536             # a probability of 1
    EVERYBODY = 255             # the receivers of a frame to a group
    KERNEL_REQUESTS = 64        # that a machine's kernel takes in
    SOCKETS = 2                 # of a machine: its genuine lane and its common one
    OVER_4 = 1                  # families as bits
    OVER_6 = 2
    MAINTENANCE_DEMOTION = 240
    ORDER_OTHER_KEY = 1         # bits of the value of an order to add or replace a host
    ORDER_CHANGED = 2           # ... with its other priority

cdef enum Happening:            # the kinds of events in the queue
    FRAME_ARRIVES               # subject: machine, detail: frame
    MACHINE_STEPS               # subject: machine, detail: generation
    ORDER_ARRIVES               # subject: machine, detail: an order, packed
    FAULT_CHANGES               # detail: which of the faults
    SLOT_IS_CHECKED             # subject: slot
    SOURCE_IS_SORTED            # subject: machine, detail: the source, packed
    FLOOD_GOES_ON               # subject: machine
    KERNEL_WORKS                # subject: machine, detail: its life

cdef enum Key:                  # the key of a frame's digest
    KEY_RIGHT
    KEY_OTHER
    KEY_NONE                    # changed on its way, or forged

cdef enum Pause:
    PAUSE_NONE
    PAUSE_STOPPED               # only the process: frames wait in its socket
    PAUSE_FROZEN                # the machine, time passes: frames are lost uncounted
    PAUSE_SUSPENDED             # the machine, CLOCK_MONOTONIC stands still

cdef enum Rest:                 # of a slot since the faults were over
    UNCHECKED
    RESTLESS                    # checked; a change of links or waits may change it
    QUIET                       # checked: nothing may change any more

cdef enum KernelAddress:        # bits: the kernel may have an address of ours and a route to it
    ABSENT
    OURS
    FOREIGN_THERE
    OUR_ROUTE = 4

cdef enum:                      # the fields of a link
    LINK_BLOCKED                # families as bits
    LINK_LOSS_4
    LINK_LOSS_6
    LINK_DUPLICATE
    LINK_CORRUPT
    LINK_REPLAY
    LINK_FORGE
    LINK_FORWARD                # a router lets a copy through
    LINK_REFLECT                # of a machine to itself: it hears what it sends
    LINK_LATE
    LINK_STRANGER               # a source without the key resends captured frames
    LINK_DELAY_NS
    LINK_FIELDS

cdef enum TraceKind:
    TRACE_SENT                  # a: family, demote, advbase, advskew, a byte each; b: errno
    TRACE_HEARD                 # a: family x 256 + sender, b: verdict
    TRACE_LOST                  # a: family x 256 + sender
    TRACE_CHANGED_ON_WAY        # a: family x 256 + sender, b: what the link did
    TRACE_NO_ROOM               # a: family x 256 + sender
    TRACE_STATE                 # a: state, b: reason
    TRACE_ADDRESS               # a: which x 2 + added, b: errno
    TRACE_ANNOUNCED             # a: frames
    TRACE_ORDER                 # a: kind
    TRACE_FAULT                 # a: kind, b: value
    TRACE_STALLED
    TRACE_CHECKED               # a: the master
    TRACE_FAMILY                # a: family, b: whether it is silent
    TRACE_KINDS

cdef enum Broken:               # the invariants
    NOT_BROKEN
    TWO_MASTERS
    NO_MASTER
    SLOWER_MASTER
    STILL_INIT
    CHANGED_WHILE_QUIET
    NEVER_QUIET
    ADDRESS_KEPT
    ADDRESS_MISSING
    FOREIGN_REMOVED
    NOT_ANNOUNCED
    SENT_BY_BACKUP
    RESIGNED_WITH_ADDRESSES
    SENT_WRONG_PRIORITY
    SENT_LATE
    DEMOTED_WRONGLY
    DEMOTION_UNEQUAL
    ANNOUNCED_BY_BACKUP
    SENT_OLD_COUNTER
    ACCEPTED_UNAUTHENTIC
    ACCEPTED_REPLAY
    ACCEPTED_LOOP
    CHANGED_BY_REFUSED
    REFUSED_GENUINE
    HEARD_TOO_LATELY
    HEARD_UNREAD
    SILENCE_UNPROVEN
    PREEMPTED_WRONGLY
    YIELDED_WRONGLY
    CHANGED_WITHOUT_CAUSE
    TIE_UNSETTLED
    JITTER_WRONG
    SILENCE_UNSAID
    SILENCE_IMAGINED
    QUEUE_OVERFLOW
    REPORTS_LOST
    RESIGNED_LATE
    ANNOUNCED_ABSENT
    ROSE_IN_MAINTENANCE
    ORDER_IGNORED
    GROUP_UNEQUAL
    GROUP_KEPT
    GROUP_SPLIT
    CONDITION_KEPT
    UPGRADE_CHANGED
    BROKEN_KINDS

cdef struct Event:
    int64_t at_ns
    uint64_t sequence
    uint64_t detail
    uint32_t what
    uint32_t subject

cdef struct Frame:
    uint8_t bytes[FRAME_ROOM]
    uint32_t slot
    uint32_t users              # events and sockets that hold it; 0: free
    uint32_t next_free
    uint8_t length
    uint8_t family
    uint8_t carp_at
    uint8_t segment
    uint8_t sender
    uint8_t to                  # the machine of a unicast, or EVERYBODY
    uint8_t key
    uint8_t strange             # its source was changed on its way, undetected by checksums
    uint8_t stranger            # ... by a stranger who resends it from an address of his own

cdef struct Link:               # one direction between two machines on a segment
    int64_t fields[LINK_FIELDS]

cdef struct Arrival:            # a frame in a machine's socket
    int64_t at_ns               # the machine's CLOCK_MONOTONIC
    int64_t stamp_ns            # the machine's wall clock: the kernel's stamp
    uint32_t frame              # NOBODY: a stranger's, part of a flood

cdef struct Socket:             # a ring that keeps the oldest frames
    Arrival* arrivals
    uint32_t head
    uint32_t count
    uint32_t drops

cdef struct PendingOrder:
    int64_t value
    uint32_t subject            # slot or segment
    uint8_t kind

cdef struct Nic:
    int32_t ifindex             # 0: does not exist
    uint8_t up
    uint8_t attached            # the machine has virtual hosts on this segment
    uint8_t renamed             # it does not have its own name
    uint8_t sources             # families as bits: it has a source address
    uint8_t forwards6
    uint8_t mac[6]
    uint8_t source[4]
    uint8_t source6[16]

cdef struct Sighting:           # a counter that a host has sent or accepted
    uint64_t counter
    int64_t at_ns               # the machine's CLOCK_MONOTONIC, the first time
    uint8_t in_order            # the host must know it for ever: its own, or one in order

cdef struct Learned:            # the counters of a source that a host may know
    uint64_t highest
    uint64_t refused
    uint8_t genuine             # it has sent one that the host cannot have known
    uint8_t perhaps             # ... or perhaps has not known
    int64_t taken_ns            # 0: never heard
    uint32_t interval           # in 1/256 s, of its last advertisement
    uint8_t ascended
    uint8_t refusals

cdef struct Slot:               # a virtual host of one machine, as the world sees it
    const VirtualHost* right    # its configuration, one of `variants`, or NULL
    const VirtualHost* variants[2]      # as configured, and with another priority
    const VirtualHost* other    # with another passphrase
    int64_t heard_at_ns         # when an advertisement arrived that keeps it BACKUP
    int64_t left_at_ns          # when its master announced leaving, and none was heard since
    uint8_t resigned            # ... with 255/255, by its last advertisement
    int64_t family_at_ns[2]     # when the last one accepted over this family arrived
    int64_t latest_ns           # ... over any, by the arrival that the engine has
    int64_t sent_ns             # when it last sent; 0: never
    int64_t sent_every_ns       # ... and how soon the next one follows
    int64_t failing_ns          # since when all its sends fail; 0: they do not
    uint32_t failures           # ... and how many
    uint64_t counter            # of its last advertisement
    uint64_t first              # the lowest that it has ever sent; 0: none
    uint64_t known_again[2]     # by family: the last known one, from a source not genuine
    Sighting* sightings
    uint32_t sighting_count
    uint32_t sighting_room
    uint32_t sequences          # of the counters seen: far from each other
    uint8_t stranger_taken      # with a counter that this host did not know
    uint32_t strangers          # sources that do not belong to a machine
    uint32_t told               # a bit for each address announced since it became MASTER
    uint8_t ordered[4]          # demotions, by DemotedBy
    bint barred                 # as ordered
    bint withheld               # as ordered, in maintenance
    uint8_t bidden              # ... to hand over or take over: the Reason, while it obeys
    uint8_t unlinked            # it lacks its link, interface or source, as last reported
    uint8_t mute                # it is demoted for its sends, as last reported
    uint8_t lacks_condition     # as ordered: a track without which it cannot be MASTER has failed
    uint8_t resigns             # MASTER when that was ordered: the next report has that it resigned
    uint8_t steps_down          # MASTER when its group was demoted: it resigns before it advertises
    uint8_t keeper[2]           # by family, plus 1: the machine heard last; 255: a strange source
    uint8_t keeper_source[2][16]
    uint8_t state               # as last reported
    uint8_t pardoned            # ... which is over, and no send has succeeded since
    int64_t muted_ns            # when it stepped down, demoted for its sends; 0: no, or it is over
    int64_t lost_at_ns          # when it gave up for its addresses; 0: not, or it is over
    uint8_t key
    uint8_t owes_last           # may send one more advertisement after yielding to a faster one
    uint8_t owes_resignation
    int64_t leaving_ns          # ... since then
    uint8_t tries_again         # what it owes was refused
    uint8_t owed_resignation    # the last one it sent was one of these
    uint8_t owes_announcement
    uint8_t lost_tie            # since it takes part
    uint8_t ties                # of those, without a single master heard since
    int64_t alone_ns            # since when a single master is heard
    int64_t rose_ns
    int64_t priority_ns         # when its advskew last changed
    uint32_t theirs             # the interval of the master heard last, 1/256 s
    uint32_t keeper_interval[2]     # by family: what the machine heard last advertised, 1/256 s
    uint8_t keeper_demote[2]
    uint8_t may_take_over       # the Reason to take over of the last advertisement, or 0
    uint8_t disturbed           # an address was removed, and the kernel has not been asked since
    uint64_t found_in           # ... then: known when the engine took up so many requests
    uint8_t dirty
    uint32_t refused            # a bit for each address whose last change was refused
    uint8_t kernel[ADDRESSES_MAX]
    uint8_t seen[ADDRESSES_MAX]     # ... when its interface was last looked at
    Learned learned[2][MACHINES_MAX]

cdef struct KernelRequest:      # an address to change, or an interface to look at
    AddressChange change
    uint32_t number             # of the interface
    uint32_t part               # of `parts` of a look; 0: a change
    uint32_t parts
    uint8_t routes              # of a look: a Routes

cdef struct Missed:             # a time in which a machine could not hear
    int64_t since_ns            # of frames that it dropped: when the first one was
    int64_t until_ns
    int64_t length_ns           # 0: it dropped a frame
    int64_t clock_ns            # ... the part of that on its CLOCK_MONOTONIC

cdef struct Before:             # the state before a frame was handled
    uint32_t claimed            # the slot that it names, maybe a wrong one if corrupted
    uint32_t queued
    int64_t deadline_ns
    uint64_t counter
    uint8_t state
    uint8_t keeps               # it keeps the host BACKUP
    uint8_t leaves              # its master leaves
    uint8_t expected            # an Expected

cdef struct World

cdef struct Machine:
    World* world                # that it belongs to
    Core core
    Turn turn                   # the pump's
    Slot* slots
    uint8_t running
    uint8_t paused
    int64_t paused_at_ns
    int64_t origin_ns           # its CLOCK_MONOTONIC less the world's time
    int64_t wall_ns             # its wall clock less its CLOCK_MONOTONIC
    int64_t wall_error_ns       # ... minus its correct value
    int64_t suspended_ns        # CLOCK_BOOTTIME less CLOCK_MONOTONIC
    Missed missed[MISSED_MAX]   # a ring: the last ones
    uint32_t missed_count       # ever
    int64_t away_ns             # the world's time when its last absence ended
    int64_t clock_stepped_ns    # when its wall clock was last stepped, 0: never
    int64_t order_ns            # the world's time of its last order
    int64_t hindered_ns         # until when it was stopped or busy, by its CLOCK_MONOTONIC
    Arrival taken[BATCH_MAX]    # the frames of the turn's intake
    uint32_t taken_count
    const Frame* cause          # the frame being received, or NULL
    Before before               # ... and the state before it
    int64_t busy_ns             # the cost of the current step so far
    int64_t step_at_ns          # the world's time of its next step; -1: none
    int64_t upgrade_by_ns       # the world's time until which it drains; 0: no upgrade is due
    uint64_t generation         # of that step: an event of an earlier one is void
    # Its sockets, by Lane, and the sources whose frames go to the genuine lane.
    Socket sockets[SOCKETS]
    uint8_t sorted[SEGMENTS_MAX][MACHINES_MAX]      # families as bits
    uint32_t sorted_count       # including strange sources
    uint8_t sorted_full         # others had no room
    uint8_t sorted_anew         # there was no room once, and all were dropped
    uint32_t unsorted           # found, and not sorted yet
    int64_t found_ns            # when the last one was found
    uint32_t lives              # boots so far: earlier findings are void
    int64_t nobody_since_ns     # frames dropped while no source was known; 0: no
    int64_t nobody_dropped_ns   # when that was last the case
    PendingOrder* orders        # a ring that grows
    uint32_t orders_head
    uint32_t orders_count
    uint32_t orders_room
    uint32_t* dirty             # slots to be checked when the turn ends
    uint32_t dirty_count
    # Its faults.
    uint32_t flooded            # of 65,536 frames to the common lane, those without room
    uint32_t flood_frames       # strangers' frames that find room, each time
    uint8_t flood_comes         # its next event is queued
    uint32_t send_error[2]      # by family
    uint32_t netlink_error
    uint32_t part               # of `parts` in which an interface is looked at
    uint32_t parts
    uint8_t looked_at_routes    # ... and whether local routes are looked at
    uint32_t takes_secondaries  # others that the kernel removes with an IPv4 address, each
    int64_t change_cost_ns
    uint8_t lock_held           # another program holds the lock of the kernel's addresses
    uint8_t kernel_works        # its next event is queued
    KernelRequest requests[KERNEL_REQUESTS]     # a ring
    uint64_t requested
    uint64_t answered           # those before have their outcome
    uint64_t taken_up           # ... and the turn has taken those
    Nic nics[SEGMENTS_MAX]
    uint8_t leaving[SEGMENTS_MAX]       # the engine is leaving a renamed interface
    uint8_t maintenance         # as written down: 1, or 2 if forced
    uint8_t left[SEGMENTS_MAX]          # ... and has done so

cdef struct Fault:
    int64_t value
    uint32_t slot
    uint8_t kind
    uint8_t segment
    uint8_t machine
    uint8_t other

cdef struct Trace:
    int64_t at_ns
    uint8_t kind
    uint8_t machine
    uint8_t segment
    uint8_t vhid
    uint32_t a
    uint32_t b

cdef struct Tally:              # the values of the summary
    uint64_t take_overs
    uint64_t rejected
    uint64_t sent
    uint64_t heard
    uint64_t stalls
    uint64_t drops
    uint64_t strangers
    uint64_t turns
    uint64_t refused_changes
    uint64_t secondaries
    uint64_t routes_dropped
    uint64_t looks
    uint64_t losses
    uint64_t crossed_ties
    uint64_t tied               # slots of two or three machines, once the faults were over
    uint64_t long_ties          # ... without a master for more than ROUNDS_PROMISED rounds
    uint64_t silent_families
    uint64_t judged
    uint64_t groups_demoted     # by reports; and members that were MASTER then, once each
    uint64_t stepped_down
    uint64_t conditions_failed  # that made a MASTER resign
    uint64_t upgrades           # of machines

cdef struct World:
    int64_t now_ns
    uint64_t random
    uint64_t digest             # of the trace
    uint64_t sequence
    int64_t disturbed_ns        # the last time that a fault affects
    int64_t quiet_ns            # when the faults were over; 0: not yet
    uint64_t counters_ahead     # of wall clocks, where counters begin: 0, or shortly before 2^64
    uint32_t quiet_count
    uint32_t machine_count
    uint32_t segment_count
    uint32_t slot_count
    # The limits of a machine's slices; small ones show the effects of reaching them.
    uint32_t socket_room
    uint32_t source_room        # of genuine lanes
    uint32_t batch
    uint32_t slices
    uint32_t changes
    uint8_t aligned             # the machines' clocks tick together
    uint8_t* slot_segment
    uint8_t* slot_vhid
    uint8_t* slot_families      # as bits
    uint8_t* slot_group         # 0: none
    uint8_t group_all[256]      # it is demoted only if all its members are impeded
    uint8_t* slot_crossings     # ties that all sides lost since the faults were over
    int64_t* slot_disturbed_ns
    uint8_t* slot_rest
    uint32_t slot_of[SEGMENTS_MAX][256]     # slot + 1
    Machine* machines
    Link links[SEGMENTS_MAX][MACHINES_MAX][MACHINES_MAX]
    Frame history[SEGMENTS_MAX][HISTORY]
    uint32_t remembered[SEGMENTS_MAX]
    Event* events               # a binary heap
    uint32_t event_count
    uint32_t event_room
    Frame* frames
    uint32_t frame_count        # ever used
    uint32_t frame_room
    uint32_t frame_free         # first of the free ones, or NOBODY
    Fault* faults
    uint32_t fault_count
    uint32_t fault_room
    Trace* traces
    uint32_t trace_count
    uint32_t trace_room
    uint8_t tracing
    uint8_t out_of_memory
    Tally tally
    uint8_t broken
    uint8_t broken_machine
    uint32_t broken_slot
    int64_t broken_value

cdef uint64_t random_below(uint64_t* state, uint64_t bound) noexcept nogil
cdef bint random_chance(uint64_t* state, int64_t of_65536) noexcept nogil
cdef void trace(World* world, uint8_t kind, uint32_t machine, uint32_t slot, uint32_t a,
                uint32_t b) noexcept nogil
cdef void broken(World* world, uint8_t kind, uint32_t machine, uint32_t slot,
                 int64_t value) noexcept nogil
cdef void event_push(World* world, int64_t at_ns, uint32_t what, uint32_t subject,
                     uint64_t detail) noexcept nogil
cdef bint event_pop(World* world, Event* event) noexcept nogil
cdef void* grown(World* world, void* array, uint32_t* room, size_t size) noexcept nogil
cdef int64_t machine_now(const World* world, const Machine* machine) noexcept nogil
cdef uint32_t machine_number(const World* world, const Machine* machine) noexcept nogil
cdef void machine_wake(World* world, Machine* machine, int64_t at_ns) noexcept nogil
cdef void frame_release(World* world, uint32_t which) noexcept nogil
cdef uint8_t family_bit(uint8_t family) noexcept nogil
cdef uint32_t whose(const Frame* frame) noexcept nogil
cdef uint32_t machine_at(const World* world, uint32_t segment, uint8_t family,
                         const uint8_t* source) noexcept nogil
cdef bint is_refused(World* world, Machine* machine, bint six) noexcept nogil
cdef int transmit(World* world, Machine* machine, const Outgoing* frame) noexcept nogil
cdef bint has_sorted(const Machine* machine) noexcept nogil
cdef void note_drop(World* world, Machine* machine, bint known, bint missed) noexcept nogil
cdef void note_disturbed(World* world, int64_t until_ns) noexcept nogil
cdef void frame_arrives(World* world, uint32_t machine, uint32_t which) noexcept nogil
cdef void trace_stall(World* world, Machine* machine, uint32_t drops, int64_t gap_ns) noexcept nogil
cdef int64_t longest_delay_ns(const World* world, uint32_t slot) noexcept nogil
cdef void note_missed(Machine* machine, int64_t since_ns, int64_t until_ns, int64_t length_ns,
                      int64_t clock_ns) noexcept nogil
cdef bint nic_works(const Machine* machine, uint32_t segment) noexcept nogil
