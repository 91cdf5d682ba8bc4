"""All virtual hosts of one process: table, queues, deadlines, reports, orders."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._absence cimport Absences
from carp_fast.engine._fields cimport Checkpoint
from carp_fast.engine._figures cimport Figures
from carp_fast.engine._recorder cimport Recorder
from carp_fast.engine._vhid cimport Block, Event, Source, VirtualHost
from carp_fast.engine._wheel cimport Wheel
from carp_fast.engine._wire cimport VERDICTS

cdef enum:
    MAX_VIRTUAL_HOSTS = 131072
    MAX_INTERFACES = 4096
    MAX_GROUPS = 65535              # their numbers begin with 1
    RESERVED_REPORTS = 1024         # of the ring, for RELEASED and DONE, half of it for DONE
    REJECTIONS = 16                 # remembered per interface, a power of two
    TICK_NS = 1000000               # of the wheel; the pump wakes less often

cdef enum ReportKind:
    # state, previous, reason; the peer heard; value: a byte for each DemotedBy; detail: why it was
    # demoted BY_ADDRESS
    STATE_CHANGED
    ADDRESSES_CHANGED               # every address of the host is as its state requires
    ADDRESS_FAILED                  # value: errno; detail: which address of the host
    ADDRESS_FOREIGN                 # detail: which address
    ADDRESS_RESTORED                # detail: which address; value: a RestoredWhy
    ADDRESS_GONE                    # detail: which address; its failed removal is no longer due
    UNDEMOTED                       # its demotion for its addresses ended
    # detail: an interface whose promote_secondaries was not 1; value: errno of setting it; 0: it
    # was set to 1 again
    SECONDARIES
    DUPLICATE_SOURCE                # mac: the host that sends from our address
    OTHER_MASTER                    # a bad digest for a host that is MASTER here
    DEMOTE_HEARD                    # value: the byte
    SENDS_FAILING                   # value: errno; demoted until sends succeed again
    SENDS_RECOVERED
    RELEASED                        # value: a block that the engine no longer uses
    DONE                            # value: the mark of an order
    STALLED                         # value: how long the pump did not run, ns
    SOCKET_DROPPED                  # value: frames dropped; detail: silence proves nothing
    LOST_PRIORITY                   # the pump used up its real-time budget
    REASSERTED                      # we are MASTER and answered a slower master
    WRONG_DIGEST                    # a bad digest for a host that is BACKUP here
    COUNTER_RESET                   # a source's counters went back, and are learned again
    FAMILY_SILENT                   # value: the family; the other one is heard
    FAMILY_HEARD                    # value: the family, heard again
    SOURCE_PROVEN                   # a genuine source outside its lane; value: ifindex; the peer
    DUPLICATE_ENDED                 # no other host sends from our address any more; mac: that host
    RESIGNED_HOLDING                # value: addresses whose removal had no outcome in time
    # detail: the interface that gets no clones any more, NOBODY: none does; value: errno; reason:
    # why
    CLONES_GIVEN_UP
    # detail: its number; value: impeded members | members << 32; state: whether it is demoted;
    # peer: the slots, plus 1, of the first impeded members; slot: the last to change it
    GROUP_CHANGED
    REPORTS

cdef enum RestoredWhy:              # why a missing address of ours was added again
    RESTORED_REFUSED                # it could not be added before, or another program had it
    RESTORED_REMOVED                # another program removed it
    RESTORED_WITH_OURS              # it was removed together with another one of ours
    RESTORED_ROUTE                  # its local route was gone

cdef enum OrderKind:
    ORDER_ADD                             # value: a byte for each DemotedBy below ORDERED_BY
    ORDER_REMOVE
    ORDER_REPLACE
    ORDER_SET_INTERFACE
    ORDER_DEMOTE                          # reason: a DemotedBy; value: the demotion by it
    ORDER_RESIGN_ALL
    ORDER_ANNOUNCE                        # the up script has run
    ORDER_VERIFY                          # check the addresses of its interface soon
    ORDER_LOSE_ADDRESS                    # its addresses are removed repeatedly: give the host up
    ORDER_MARK                            # report DONE when all orders before it are carried out
    ORDER_FLUSH                           # report DONE when only announcements are left to do
    ORDER_SNAPSHOT                        # copy `value` hosts from `slot` on to `pointer`
    ORDER_SNAPSHOT_INTERFACES             # copy `value` interfaces from `slot` on to `pointer`
    ORDER_COPY_RECORDS                    # `pointer`: a RecordCopy
    ORDER_BAR                             # value: whether another process has the host
    ORDER_ASSUME                          # a host continues from the Checkpoint at `pointer`
    ORDER_OWN_SOURCE                      # value: flags of configured sources that are missing
    ORDER_ADOPT                           # the kernel has the Address at `pointer`, with our mark
    ORDER_GROW_REPORTS                    # the ring goes on at `pointer`: room for `value` Reports
    ORDER_BY_ROUTE                        # value: whether its IPv4 addresses are local routes
    ORDER_TELL_GROUPS                     # report every group that has members
    ORDER_YIELD                           # a MASTER gives its addresses up; reason: why
    ORDER_PREEMPT                         # a BACKUP takes over from a master that it beats
    ORDER_WITHHOLD                        # value: whether the host takes no part, in maintenance
    ORDER_TALLY                           # `pointer`: a Tally; value: hosts to add, 0: the figures

cdef struct Order:
    uint8_t kind
    uint8_t reason
    uint16_t interface
    uint32_t slot
    int64_t value
    void* pointer

cdef struct Report:
    int64_t at_ns
    uint64_t value
    uint32_t slot
    uint32_t detail
    uint16_t interface
    uint8_t kind
    uint8_t state
    uint8_t previous
    uint8_t reason
    uint8_t peer_family
    uint8_t peer_advbase
    uint8_t peer_advskew
    uint8_t peer[16]
    uint8_t mac[6]
    uint8_t configuration           # of the host: its addresses are numbered as in that one

cdef struct Rejection:
    int64_t at_ns                   # 0: none
    uint8_t source[16]
    uint8_t verdict
    uint8_t family                  # 0: unknown, as is the source
    uint8_t vhid

cdef struct Interface:
    int32_t ifindex                 # 0: does not exist
    uint8_t up
    uint8_t has_source
    uint8_t has_source6
    uint8_t forwards6               # neighbour advertisements have the router flag
    uint8_t renamed                 # lost its name: hosts remove their addresses and resign
    uint8_t announce                # only in an order: neighbours have to learn its place again
    uint8_t known                   # its properties have been ordered
    uint8_t routes_due              # its local routes may be gone: the next check looks at them
    uint8_t mac[6]
    uint8_t source[4]
    uint8_t source6[16]
    uint32_t hosts
    uint64_t sent
    uint64_t heard
    uint64_t announced
    uint64_t paced                  # announcements that waited for the interface's pace
    uint64_t announce_errors        # frames of announcements that could not be sent
    uint64_t send_errors
    uint64_t became_master
    uint64_t rejected[VERDICTS]
    int64_t announced_until_ns      # when the announcements so far are over at the lasting pace
    int64_t refused_until_ns        # when announcements go on that a full queue refused
    int64_t verify_at_ns            # when to check its addresses; 0: never
    int64_t removed_ns              # when we last removed an address that may have had secondaries
    uint32_t rejections_count       # ever; the next index is this modulo REJECTIONS
    Rejection rejections[REJECTIONS]

cdef struct Pace:                   # of announcements: faster ones may be dropped, or refused
    uint32_t rate                   # of one interface, a second
    uint32_t at_once                # beyond it, after a pause; and of one host in a row
    uint32_t in_all                 # a second; 0: no limit

cdef enum GroupDue:
    DUE_TELL = 1                    # a report
    DUE_WALK = 2                    # its members' demotions
    DUE_AGAIN = 4                   # ... from the first one on, after this walk

cdef struct Group:                  # virtual hosts that share demotion; see _groups.pyx
    uint32_t first[2]               # member, impeded member: its slot plus 1; 0: none
    uint32_t members                # of both lists
    uint32_t impeded                # members that cannot be MASTER here
    uint32_t at                     # the member that the walk comes to next, as `first`
    uint32_t decider                # slot of the host that changed it last
    uint16_t next_due               # the next group with something due, 0: none
    uint8_t due                     # flags of GroupDue; 0: it is not among these
    uint8_t all                     # demoted when all members are impeded; otherwise when one is
    uint8_t demoted

cdef struct HostsCopy:              # room for a snapshot
    VirtualHost* hosts
    Source* sources                 # SOURCES of each

cdef struct Queue:                  # of slots, each at most once: never overflows
    uint32_t* slots
    uint32_t head
    uint32_t tail
    uint32_t capacity

cdef struct ReportRing:             # one writer, one reader
    Report* reports
    uint64_t head                   # next to read
    uint64_t tail                   # next to write
    uint64_t mask
    uint64_t lost
    uint64_t grown_at               # reports from this one on are in the room of the last order

cdef struct Core:
    void* room                      # the allocation for `hosts`
    VirtualHost* hosts              # begins at a cache line
    void* sources_room
    Source* sources                 # the first of every host, then all the second ones, ...
    Interface* interfaces
    uint32_t* index                 # interface x 256 + vhid -> slot + 1
    uint32_t slots                  # highest slot ever used + 1
    uint32_t used                   # virtual hosts that are there
    uint64_t addresses              # ... of all of these
    uint64_t former_keys            # ... and room for their former keys
    Group* groups                   # by number
    uint32_t group_count            # the highest number ever used + 1
    uint16_t first_due              # the groups with something due, 0: none
    uint16_t last_due
    int64_t due_ns                  # since when the first of these waits
    int64_t wake_tick_ns            # deadlines of advertisements are multiples of this
    int64_t longest_tick_ns         # ... and it is at most this
    int64_t shortest_ns             # the shortest interval in use
    bint shortest_left              # the host that had it is gone: search again
    uint64_t seed                   # of the jitter after a tie that all hosts may have lost
    Absences absences               # silence during these proves nothing
    int64_t flush_mark
    int64_t taken_ns                # when the frames being received were read, maybe much later
    Wheel wheel
    Queue advertise_first           # hosts with an interval below a second
    Wheel upkeep                    # of addresses: retries, deadlines, demotions
    int64_t verify_at_ns            # the earliest of the interfaces'; 0: none
    uint32_t interface_count        # highest interface number ever used + 1
    Queue advertise
    Queue owed                      # last advertisements and resignations that were refused
    int64_t owed_at_ns              # when these are tried again; 0: there is none
    Queue change
    Queue announce
    Queue repeat                    # announcements that are not the first ones, sent after those
    Pace pace
    int64_t announced_until_ns      # when all announcements so far are over at the pace in all
    int64_t paced_until_ns          # an announcement waits for a pace; 0: none
    bint repeating                  # the last host to be announced was in `repeat`
    ReportRing reports
    # What found no room in it, though Python waits for it: it is reported later.
    Block* unreturned               # chained by engine_return
    int64_t undone_mark             # the last one; 0: none
    Recorder recorder
    Figures figures

# How long a resignation waits for the removal of the addresses, and when the host first advertises
# meanwhile: usually the outcome is there before.
cdef enum:
    LEAVING_NS = 1000000000
    LEAVING_FIRST_NS = 10000000

cdef inline void verify_soon(Core* core, uint32_t number, int64_t at_ns) noexcept nogil:
    """Schedule a check of an interface's addresses at `at_ns`, or earlier."""
    cdef Interface* interface = &core.interfaces[number]
    if not interface.verify_at_ns or at_ns < interface.verify_at_ns:
        interface.verify_at_ns = at_ns
    if not core.verify_at_ns or at_ns < core.verify_at_ns:
        core.verify_at_ns = at_ns
    if number >= core.interface_count:
        core.interface_count = number + 1


cdef inline void verify_all_soon(Core* core, uint32_t number, int64_t at_ns) noexcept nogil:
    """The same where local routes of ours may be gone, too: the kernel drops them silently."""
    core.interfaces[number].routes_due = 1
    verify_soon(core, number, at_ns)


cdef inline uint32_t queue_length(const Queue* queue) noexcept nogil:
    return (queue.tail + queue.capacity - queue.head) % queue.capacity


cdef inline bint queue_empty(const Queue* queue) noexcept nogil:
    return queue.head == queue.tail


cdef inline void queue_push(Queue* queue, uint32_t slot) noexcept nogil:
    """Append a slot; the caller makes sure that no slot is in a queue twice."""
    queue.slots[queue.tail] = slot
    queue.tail = queue.tail + 1 if queue.tail + 1 < queue.capacity else 0


cdef inline void count_block(Core* core, const Block* block, int sign) noexcept nogil:
    """Count a block that a host has now, sign 1, or has no more, -1."""
    core.addresses += sign * <int64_t>block.address_count
    core.former_keys += sign * <int64_t>(block.alternate_count - block.permanent_count)


cdef inline Source* core_source(const Core* core, uint32_t slot, uint32_t which) noexcept nogil:
    """The place of the source `which` of the host in `slot`."""
    return core.sources + <size_t>which * MAX_VIRTUAL_HOSTS + slot


cdef int engine_open(Core* core, uint32_t report_capacity, uint64_t seed) except -1
cdef void engine_close(Core* core) noexcept
cdef int64_t engine_next_deadline(const Core* core) noexcept nogil
cdef void engine_checkpoint(const Core* core, uint32_t slot, Checkpoint* checkpoint,
                            int64_t now_ns) noexcept nogil
cdef void engine_record(Core* core, uint32_t slot, bint added, bint changed,
                        int64_t now_ns) noexcept nogil
cdef void engine_touch(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void engine_release(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void engine_set_deadline(Core* core, uint32_t slot, int64_t deadline_ns) noexcept nogil
cdef int64_t address_deadline_ns(const VirtualHost* host) noexcept nogil
cdef int64_t leaving_at_ns(const VirtualHost* host) noexcept nogil
cdef void engine_plan_upkeep(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void engine_redirect(Core* core, uint32_t slot) noexcept nogil
cdef void engine_schedule(Core* core, uint32_t slot, int64_t from_ns) noexcept nogil
cdef void engine_reschedule(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void engine_ask(Core* core, Queue* queue, uint32_t slot, uint8_t pending) noexcept nogil
cdef uint32_t queue_pop(Queue* queue) noexcept nogil
cdef void engine_return(Core* core, uint32_t slot, Block* block, int64_t now_ns) noexcept nogil
cdef void engine_done(Core* core, int64_t mark, int64_t now_ns) noexcept nogil
cdef void engine_flushed(Core* core, int64_t now_ns) noexcept nogil
cdef bint engine_tell_rest(Core* core, int64_t now_ns) noexcept nogil
cdef void engine_grow_reports(Core* core, Report* room, uint64_t capacity) noexcept nogil
cdef Report* report_begin(Core* core, uint8_t kind, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void report_end(Core* core) noexcept nogil
cdef void engine_tell(Core* core, uint8_t kind, uint32_t slot, uint64_t value, const uint8_t* mac,
                      int64_t now_ns) noexcept nogil
cdef void engine_end_duplicate(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void engine_drop_source(Core* core, uint32_t slot) noexcept nogil
cdef bint engine_may_tell(uint32_t* told_ms, int64_t now_ns) noexcept nogil
