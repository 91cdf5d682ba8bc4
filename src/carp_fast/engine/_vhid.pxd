"""The virtual host: its plain struct, its timing, its state machine as a table."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from carp_fast.engine._auth cimport AuthKey
from carp_fast.engine._history cimport History
from carp_fast.engine._wire cimport FRAME_ROOM, VERDICTS, Advertisement

cdef enum State:
    INIT
    BACKUP
    MASTER

cdef enum DemotedBy:            # the reasons of a demotion, each added and removed on its own
    BY_OPERATOR
    BY_TRACK
    BY_GROUP
    BY_MAINTENANCE
    BY_LINK                     # from here on they follow from the host's own state
    BY_SENDS
    BY_ADDRESS
    DEMOTIONS

cdef enum Event:
    ON_READY                # interface, link and source are there
    ON_NOT_READY            # one of them is missing; the cause says which
    ON_RENAMED              # the interface lost its name, but can still send a resignation
    ON_MASTER_HEARD         # an advertisement that keeps us BACKUP
    ON_SLOWER_MASTER        # ... from a master that we may preempt
    ON_MASTER_LEAVING       # ... that announces a silence longer than our wait
    ON_MASTER_LEFT          # the wait after that is over
    ON_MASTER_DOWN          # silence for the whole master-down time
    ON_ADVERTISEMENT_DUE    # our own interval is over
    ON_FASTER               # heard while MASTER: a shorter interval than ours
    ON_TIE_LOST             # ... the same interval, and the other host has precedence
    ON_SLOWER               # ... a longer interval, or a tie that we win
    ON_LESS_DEMOTED         # ... a lower demote byte than ours (OpenBSD)
    ON_MASTER_DEMOTED       # heard while BACKUP: a higher demote byte than ours (OpenBSD)
    ON_TIE_YIELDED          # heard while MASTER: the same interval, where the hearer yields
    ON_CONTESTED            # heard while BACKUP: a host that we tied with may preempt it, too
    ON_OUR_TURN             # the wait after that is over
    ON_ADDRESS_LOST         # our addresses cannot be held, or it is to give them up: the cause says
    ON_RESIGN               # shutdown or removal
    ON_SOURCE_LOST          # our own interval is over, and no other source has come
    EVENTS

cdef enum Effect:
    ARM_MASTER_DOWN = 1     # wait a whole master-down time
    ARM_SKEW = 2            # wait advskew/256 s
    DISARM = 4
    ADVERTISE = 8           # now, and from then on every interval
    LAST_ADVERTISEMENT = 16
    ANSWER = 32             # advertise and announce immediately, at most once an interval
    ADD_ADDRESSES = 64      # announced once they are there
    REMOVE_ADDRESSES = 128
    RESIGN = 256            # advertise 255/255 once the addresses are removed
    ARM_JITTERED = 512      # ARM_MASTER_DOWN plus jitter: both hosts may have yielded
    ARM_JITTER = 1024       # wait the jitter alone
    ADVERTISE_AGAIN = 2048  # ... and again soon, in case this one is lost

cdef enum Reason:
    NO_REASON
    STARTED
    LINK_UP
    LINK_DOWN
    INTERFACE_MISSING
    INTERFACE_FOUND
    NO_SOURCE
    SOURCE_FOUND
    STARTUP_DELAY
    MASTER_DOWN
    MASTER_RESIGNED
    PREEMPTED
    FASTER_MASTER
    TIE_LOST
    ADDRESS_LOST
    RESIGNED
    LESS_DEMOTED_MASTER
    MASTER_DEMOTED
    USED_ELSEWHERE
    FREED
    ADDRESS_DEADLINE
    MASTER_TOO_SLOW
    TRACK_FAILED
    GROUP_DEMOTED
    YIELDED
    TAKEN_OVER
    IN_MAINTENANCE
    MAINTENANCE_OVER
    REASONS

cdef enum Preempt:
    PREEMPT_NEVER
    PREEMPT_ALWAYS
    PREEMPT_DEMOTED

cdef enum Dialect:              # of ties, master-down times and demotion
    DIALECT_UCARP
    DIALECT_FREEBSD             # NetBSD's, too
    DIALECT_OPENBSD

cdef enum SourceMissing:        # value of an ORDER_OWN_SOURCE: which ones are missing
    SOURCE_MISSING = 1
    SOURCE6_MISSING = 2

cdef enum Replay:
    REPLAY_OFF
    REPLAY_LEARN
    REPLAY_STRICT

cdef enum AdvertiseMac:         # the source MAC of advertisements to a group
    INTERFACE_MAC
    UCARP_MAC                   # 00:00:5e:00:00:VHID
    BSD_MAC                     # 00:00:5e:00:01:VHID
    OWN_MAC                     # the block's

cdef enum HostFlag:             # of its state; the configuration is in Configured
    IN_USE = 1
    RESIGN_AFTER_REMOVAL = 2
    LEAVING = 4                 # to be released once its addresses are gone
    MASTER_LEAVES = 8           # the short wait after a resignation runs
    DEMOTE_TOLD = 16            # a foreign demote byte was reported
    SEND_DEMOTED = 32           # no send succeeded for an interval
    ANNOUNCING = 64             # MASTER, and the first announcement is due
    SILENT_4 = 128              # heard over IPv6 only for a master-down time, and reported
    SILENT_6 = 256
    CONTESTED = 512             # the short wait before a take-over runs
    REPEATING = 1024            # its next advertisement repeats one that must not be lost
    PRECEDED = 2048             # since its last rise a lower source was heard in a tie
    EXTENDED = 4096             # the wait is longer by what was missed until judged_ns
    BARRED = 8192               # another process of this machine has it
    DUPLICATE = 16384           # another host advertises from our source, see duplicate_ms
    ADDRESS_DEMOTED = 32768     # its addresses could not be held lately
    CANNOT_BE_MASTER = 65536    # a hard condition of a track has failed: it resigned when it did
    MASTER_RESIGNS = 131072     # MASTER_LEAVES, and with 255/255; otherwise it is too slow for us
    REFUSED_PARTLY = 262144     # some frames of its last advertisement were, and it is sent again
    UNANNOUNCED = 524288        # a frame of the announcement under way could not be sent
    UNSOURCED = 1048576         # MASTER, or has to resign: its last source is gone
    ROUTED_ONCE = 2097152       # it has asked for local routes: some may be there
    HOLDS_ROUTES = 4194304      # some of its addresses are HELD as local routes
    REPLACES_ROUTES = 8388608   # ... which do not do any more: addresses replace them
    WITHHELD = 16777216         # it takes no part while its machine is in maintenance
    OWED = 33554432             # what it has to send was refused: it waits for owed_at_ns

cdef enum:
    # What ends when another wait or interval begins.
    OF_ONE_WAIT = MASTER_LEAVES | MASTER_RESIGNS | CONTESTED | REPEATING | EXTENDED

cdef enum AddressFlag:
    SIGNED = 1                  # part of the digest
    HELD = 2                    # the kernel has it, and we added it
    FOREIGN = 4                 # the kernel has it, and we did not
    RETIRED = 8                 # no longer configured: only ever removed
    FAILED = 16                 # its last change was refused
    LOST = 32                   # we had it, and it is gone
    LOST_WITH_OURS = 64         # ... after another address of ours was removed
    ASKED = 128                 # its change was handed over, and has no outcome yet

cdef enum Pending:
    TO_ADVERTISE = 1
    TO_ADVERTISE_LAST = 2
    TO_RESIGN = 4
    TO_CHANGE_ADDRESSES = 8
    TO_ANNOUNCE = 16
    TO_TELL_ADDRESSES = 64      # the change follows from a state or a configuration: report it
    TO_REPEAT = 128             # an announcement that is not the first

cdef extern from "foresee.h" nogil:
    void foresee_line(const void* p) noexcept

cdef enum:
    CACHE_LINE = 64
    # The parts that an advertisement needs besides a host's first two lines.
    KEY_LINES = 3
    HISTORY_LINES = 2
    BLOCK_LINES = 4             # with one address and one frame
    SECOND_NS = 1000000000
    SKEW_NS = 3906250           # 1/256 s, the unit of advskew
    DEMOTED_ADVSKEW = 240       # the highest advskew that demotion results in
    MOST_DEMOTION = 255         # by one reason: more than any dialect sends
    HARD = 65536                # of an order's value: the host cannot be MASTER, see demote()
    ORDERED_BY = BY_LINK        # so many reasons are ordered
    ADDRESS_DEMOTION = 240      # what ADDRESS_DEMOTED adds to advskew or demote byte
    LINK_DEMOTION = 240         # of a host in INIT, which sends nothing
    GROUP_DEMOTION = 240        # of every member of a demoted group
    OPENBSD_SEND_DEMOTION = 1   # what failed sends add to OpenBSD's demote byte
    ALTERNATE_KEYS = 4          # digests accepted in addition to ours after a change
    PEERS_MAX = 16              # unicast peers of one virtual host
    SOURCES = 4                 # masters remembered for one virtual host
    DUPLICATE_ENDS = 2          # master-down times without another host from our source
    REPEAT_AFTER = 2            # advertisements until the announcement is repeated
    AGAIN_AFTER = 16            # part of an interval until an advertisement is repeated
    JITTER_PARTS = 4            # parts of an interval: the jitter's first range; parts of a range

cdef struct Output:
    uint8_t frame[FRAME_ROOM]
    uint8_t destination[16]
    uint8_t destination_mac[6]
    uint8_t family
    uint8_t length
    uint8_t carp_at             # offset of the CARP header in `frame`
    uint8_t unicast             # to a peer: the kernel routes and resolves

cdef struct Source:             # a host that advertises to us; its counters must ascend
    uint8_t address[16]
    uint64_t counter            # the highest heard
    uint64_t refused            # the last one that was not above it
    int64_t heard_ns            # 0: this place is free
    uint8_t mac[6]
    uint8_t family
    uint8_t advbase
    uint8_t advskew
    uint8_t demote
    uint8_t ascended            # advertisements in a row, each a little above the last
    uint8_t refusals            # in a row, each above the last
    uint8_t genuine             # it has sent a counter that we did not know
    uint8_t constant            # its last two advertisements had the same counter
    uint8_t to_line[2]
    uint32_t noted_ms           # when its run was last added to the history
    uint32_t run                # ... since then counters from `counter` - run on came in order

cdef struct Address:
    uint8_t bytes[16]
    uint8_t family
    uint8_t prefixlen
    uint8_t flags
    uint8_t error               # errno of the last failure
    uint8_t routed              # HELD or to be added: as a local route

cdef struct AlternateKey:       # a digest of a former key, accepted for a while
    AuthKey key
    int64_t until_ns

cdef struct Block:              # one allocation: this, followed by what it points to
    Address* addresses
    Output* outputs
    AlternateKey* alternates
    uint32_t address_count
    uint32_t output_count
    uint32_t alternate_count
    uint32_t permanent_count    # the first alternates, without end: other forms of our key
    uint8_t mac[6]              # see OWN_MAC

# The configuration of a virtual host, as far as the engine reads it: a reload, a checkpoint and a
# recording copy it whole. keys.py names the keys and their units; the other fields follow from
# them. All fields are numbers, so that it converts to a dict automatically.
cdef struct Configured:
    # The fields that an advertisement needs, in the last line of its key.
    uint8_t advbase
    uint8_t advskew
    uint8_t dead_ratio
    uint8_t preempt             # a Preempt
    uint8_t dialect             # a Dialect
    uint8_t replay              # a Replay
    uint8_t advertise_mac       # an AdvertiseMac
    uint8_t expects_4           # it advertises over IPv4, and expects to hear others over it
    uint8_t expects_6
    uint8_t own_source          # the IPv4 source is configured, not the interface's
    uint8_t own_source6
    uint8_t source_missing      # the configured IPv4 source is not an address of this machine
    uint8_t source6_missing
    uint8_t ignore_link_state
    uint8_t manage_addresses
    uint8_t announce_on_order   # the up script adds the addresses: announce when ordered
    # The others.
    uint8_t preferred           # IPv6 addresses may become the source of other traffic
    uint8_t announce_count      # in a row or by interval, see announce_interval_ms
    uint8_t by_route            # its IPv4 addresses are added as local routes
    uint32_t startup_delay_ms
    uint32_t preempt_delay_ms
    uint32_t announce_interval_ms
    uint32_t announce_refresh_ms
    uint32_t address_deadline_ms    # the longest time of a MASTER without; 0: no limit

# Its size is a multiple of a cache line. An advertisement heard writes to the first line and one
# of a source, and reads the second and the key with what follows: they hold all that it needs.
cdef struct VirtualHost:
    Block* block
    uint64_t counter
    uint64_t heard
    int64_t deadline_ns         # BACKUP: master-down; MASTER: advertisement due
    int64_t heard_ns[2]         # by family: IPv4, IPv6; 0: never
    uint32_t flags
    uint8_t source4[4]          # of its advertisements: its own, or its interface's
    uint16_t interface
    uint8_t state
    uint8_t reason
    uint8_t pending
    uint8_t master[2]           # index of the master in its sources, by family, plus 1; 0: none
    uint8_t vhid

    Source* sources             # the first of SOURCES; see vhid_source
    int64_t preempt_from_ns     # 0: no slower master heard
    uint32_t sources_apart      # ... and the distance to the next one
    uint32_t next_same          # next slot with the same interface and vhid, or NOBODY
    uint32_t jitter_us          # of its master-down since a tie all may have lost; 0: none
    uint8_t destination4[4]     # of the first output, if that is an IPv4 group
    uint8_t source6[16]
    uint32_t recorded           # the recorder's position at the last checkpoint; 0: none
    uint32_t held               # addresses
    uint16_t demotion           # by orders: the sum of `ordered`
    uint8_t failed_sends        # in a row
    uint8_t good_sends          # in a row while SEND_DEMOTED
    uint8_t repeat_in           # advertisements until the repeat, 0: none
    uint8_t announce_left
    uint8_t ties                # lost or yielded, until only one master is heard; see vhid_tied
    uint8_t group6              # of an output to ff02::N, this N; 0: none

    AuthKey key
    Configured configured

    int64_t tie_since_ns        # first of the ties over IPv6 that continue; 0: none
    # MASTER: the last of them; BACKUP, EXTENDED: absences until then are in its deadline
    int64_t judged_ns
    int64_t announce_at_ns      # the next announcement by time, 0: none
    int64_t answered_ns         # when it last advertised out of turn
    uint64_t sent
    int64_t since_ns
    uint32_t told_duplicate_ms  # when it was last reported, modulo 2^32; 0: never
    uint32_t told_other_master_ms
    uint32_t told_reasserted_ms
    uint32_t told_reset_ms
    uint32_t announced
    uint32_t send_errors
    uint32_t became_master
    uint32_t addresses_restored
    uint32_t rejected[VERDICTS]
    uint32_t duplicates
    uint32_t counter_resets
    uint32_t family_silences
    int64_t settled_ns          # BACKUP with ties: only one master was heard since then
    uint32_t duplicate_ms       # when another host was last heard from our source, modulo 2^32
    uint8_t duplicate_mac[6]    # ... and its MAC; 0: not known
    uint8_t mac[6]              # the source MAC of its advertisements
    History history             # at a line: each advertisement sent writes to its first two
    # By family: the last known counter from a source that has not sent a new one; 0: none.
    uint64_t stranger[2]
    uint32_t stranger_ms[2]
    int64_t retry_at_ns         # when a change of an address is tried again; 0: none has failed
    int64_t without_ns          # MASTER without any address since then; 0: it has some
    # ADDRESS_DEMOTED; or SEND_DEMOTED, and not MASTER: it sends nothing that could end that
    int64_t demoted_until_ns
    int64_t leaving_ns          # since when its resignation waits for the removal; 0: it does not
    uint32_t asked              # changes of its addresses without an outcome
    uint16_t generation         # of what its addresses should be; see engine_redirect
    uint8_t losses              # of addresses or sends, in a row; each demotes it for longer
    uint8_t lost_reason         # of ADDRESS_DEMOTED: ADDRESS_LOST or ADDRESS_DEADLINE
    int64_t failing_ns          # when the first of failed_sends failed
    uint32_t announce_from      # the frame with which its refused announcement goes on
    uint32_t announce_errors
    uint64_t first_sent         # the counter of its first advertisement, if `history` has any
    uint8_t retries             # of a change of an address, in a row
    uint8_t ordered[4]          # demotions by order, by DemotedBy below ORDERED_BY; see vhid_add_up
    uint8_t impeded             # it counts in its group as one that cannot be MASTER here
    uint16_t group              # its number, 0: none; in an order: the one to be in
    uint32_t group_next         # in a list of its group: a slot plus 1; 0: none. See _groups.pyx
    uint32_t group_previous
    uint8_t group_all           # only in an order: the group's members must all be impeded
    uint8_t configuration       # how often it was replaced, modulo 256: reports name it
    # MASTER whose addresses have no outcome yet: when the one before was heard last; 0: none was.
    int64_t took_from_ns
    uint32_t transitions        # changes of its state
    uint8_t to_line[4]

cdef struct Transition:
    uint8_t known
    uint8_t next
    uint8_t reason
    uint16_t effects

cdef inline Source* vhid_source(const VirtualHost* host, uint32_t which) noexcept nogil:
    """One of the sources of a host; unused ones touch no memory."""
    return host.sources + <size_t>which * host.sources_apart


cdef inline int64_t vhid_heard_ns(const VirtualHost* host) noexcept nogil:
    """When the last advertisement that it heard arrived; 0: it has heard none."""
    return max(host.heard_ns[0], host.heard_ns[1])


cdef inline bint vhid_expects(const VirtualHost* host, uint8_t family) noexcept nogil:
    """Whether it advertises over this family, and takes advertisements over it."""
    return host.configured.expects_4 if family == 4 else host.configured.expects_6


cdef inline bint vhid_virtual_mac(const VirtualHost* host) noexcept nogil:
    """Whether it advertises from a MAC that every host with this vhid has."""
    return (host.configured.advertise_mac == UCARP_MAC
            or host.configured.advertise_mac == BSD_MAC)


cdef inline void vhid_foresee(const void* begin, uint32_t lines) noexcept nogil:
    """Fetch `lines` cache lines from `begin` on, which are needed soon, into the cache."""
    cdef uint32_t i
    for i in range(lines):
        foresee_line(<const char*>begin + i * CACHE_LINE)


cdef inline void vhid_foresee_sending(const VirtualHost* host) noexcept nogil:
    """Fetch a host that advertises soon: after a second it is in no cache any more."""
    vhid_foresee(&host.key, KEY_LINES)
    vhid_foresee(&host.history, HISTORY_LINES)
    vhid_foresee(host.block, BLOCK_LINES)


cdef inline uint8_t vhid_advskew(const VirtualHost* host) noexcept nogil:
    """The advskew that is sent: with demotion at most 240.

    As in ucarp it is never less than configured; FreeBSD sends at most 240, whatever is
    configured; OpenBSD has a separate byte for demotion. BY_LINK does not count: a host without a
    link sends nothing but a resignation that it owes, which is sent as before.
    """
    cdef uint32_t skew = host.configured.advskew + host.demotion
    if skew <= DEMOTED_ADVSKEW and not host.flags & (SEND_DEMOTED | ADDRESS_DEMOTED):
        return <uint8_t>(skew if host.configured.dialect != DIALECT_OPENBSD
                         else host.configured.advskew)
    if host.configured.dialect == DIALECT_OPENBSD:
        return host.configured.advskew
    if host.flags & SEND_DEMOTED:
        skew += DEMOTED_ADVSKEW
    if host.flags & ADDRESS_DEMOTED:
        skew += ADDRESS_DEMOTION
    if skew > DEMOTED_ADVSKEW:
        skew = DEMOTED_ADVSKEW
    if host.configured.dialect == DIALECT_FREEBSD:
        return <uint8_t>skew
    return <uint8_t>(skew if skew > host.configured.advskew else host.configured.advskew)


cdef inline uint32_t vhid_interval_of(uint32_t advbase, uint32_t advskew) noexcept nogil:
    """The interval in 1/256 s of an advertisement's fields; OpenBSD sends 0/0 every 1/256 s."""
    return advbase * 256 + advskew if advbase or advskew else 1


cdef inline uint32_t vhid_interval(const VirtualHost* host) noexcept nogil:
    """Our advertisement interval in 1/256 s including demotion, as the election compares it."""
    return vhid_interval_of(host.configured.advbase, vhid_advskew(host))


cdef inline int64_t vhid_interval_ns(const VirtualHost* host) noexcept nogil:
    return <int64_t>vhid_interval(host) * SKEW_NS


cdef inline int64_t vhid_least_interval_ns(const VirtualHost* host) noexcept nogil:
    """Our interval without demotion, which may end at any moment."""
    return <int64_t>vhid_interval_of(host.configured.advbase, host.configured.advskew) * SKEW_NS


cdef inline uint32_t vhid_master_down(const VirtualHost* host) noexcept nogil:
    """The master-down time in 1/256 s: in ucarp, FreeBSD and NetBSD the ratio multiplies only the
    seconds, in OpenBSD the whole interval.

    With advbase 0 it always multiplies the whole interval: otherwise one lost packet would be
    enough for a take-over.
    """
    if host.configured.advbase == 0 or host.configured.dialect == DIALECT_OPENBSD:
        return host.configured.dead_ratio * vhid_interval(host)
    return <uint32_t>host.configured.dead_ratio * host.configured.advbase * 256 + vhid_advskew(host)


cdef inline int64_t vhid_master_down_ns(const VirtualHost* host) noexcept nogil:
    return <int64_t>vhid_master_down(host) * SKEW_NS


cdef inline uint32_t vhid_span_ms(const VirtualHost* host) noexcept nogil:
    """The master-down time in ms: the span of the host's history."""
    return <uint32_t>(vhid_master_down_ns(host) // 1000000)


cdef bint vhid_any_mac(const uint8_t* mac) noexcept nogil


cdef inline bint vhid_has_our_mac(const VirtualHost* host,
                                  const Advertisement* heard) noexcept nogil:
    """Whether the advertisement came from our MAC, as far as the socket reports MACs."""
    return (memcmp(heard.source_mac, host.mac, 6) == 0
            or not vhid_any_mac(heard.source_mac))


cdef inline int64_t vhid_jitter_ns(const VirtualHost* host) noexcept nogil:
    return <int64_t>host.jitter_us * 1000


cdef const Transition* vhid_transition(uint8_t state, Event event) noexcept nogil
cdef uint32_t vhid_demoted_by(const VirtualHost* host, int by) noexcept nogil
cdef void vhid_add_up(VirtualHost* host) noexcept nogil
cdef uint8_t vhid_demote(const VirtualHost* host) noexcept nogil
cdef int64_t vhid_silence_ns(const VirtualHost* host, const Source* source) noexcept nogil
cdef bint vhid_goes_on(const VirtualHost* host, const Source* source, const Advertisement* heard,
                       int64_t arrived_ns) noexcept nogil
cdef bint vhid_proves_order(const VirtualHost* host, Source* source,
                            const Advertisement* heard) noexcept nogil
cdef void vhid_tied(VirtualHost* host, uint64_t random) noexcept nogil
cdef void vhid_forget_ties(VirtualHost* host) noexcept nogil
cdef int64_t vhid_stranger_ms(const VirtualHost* host, const Advertisement* heard,
                              int64_t arrived_ns) noexcept nogil
cdef bint vhid_is_own_source(const VirtualHost* host, const Advertisement* heard) noexcept nogil
cdef bint vhid_duplicate_over(const VirtualHost* host, int64_t now_ns) noexcept nogil
cdef bint vhid_is_addressed(const VirtualHost* host, const Advertisement* heard) noexcept nogil
cdef const Source* vhid_master(const VirtualHost* host) noexcept nogil
cdef Event vhid_judge(VirtualHost* host, const Advertisement* heard, bint duplicate,
                      int64_t now_ns) noexcept nogil
cdef bint vhid_beats(const VirtualHost* host, const Source* master) noexcept nogil
cdef bint vhid_same_address(const Address* one, const Address* other) noexcept nogil
