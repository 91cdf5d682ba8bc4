"""Records of inputs and decisions: a ring of plain records, and a host's state as one struct.

The engine writes here while it works; the oldest records are overwritten, and their number is
known. A recording may begin anywhere: so in every half of the ring a host's state is written
before the first thing that happens to it. The ring never holds keys or digests. Must not know the
table of hosts, a clock, a file, or what the ring is used for.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from carp_fast.engine._fields cimport CHECKPOINT_ABSENCES, Checkpoint
from carp_fast.engine._history cimport (
    HISTORY_FORMERLY, HISTORY_LATELY, HISTORY_SENT, History, Range)
from carp_fast.engine._vhid cimport (
    Address, ADDRESS_DEMOTED, ANNOUNCING, BARRED, CANNOT_BE_MASTER, CONTESTED, DEMOTE_TOLD,
    DUPLICATE, EXTENDED,
    FAILED, FOREIGN, HELD, HOLDS_ROUTES, INTERFACE_MAC, LEAVING, LOST, LOST_WITH_OURS,
    MASTER_LEAVES, ORDERED_BY, OWN_MAC, PRECEDED, REPEATING, REPLACES_ROUTES, RESIGN_AFTER_REMOVAL,
    ROUTED_ONCE, SECOND_NS, SEND_DEMOTED, SILENT_4, SILENT_6, Source, SOURCE6_MISSING,
    SOURCE_MISSING, SOURCES, TO_ADVERTISE, TO_ADVERTISE_LAST, TO_ANNOUNCE, TO_CHANGE_ADDRESSES,
    TO_REPEAT, TO_RESIGN, TO_TELL_ADDRESSES, VirtualHost, MASTER_RESIGNS, OWED,
    REFUSED_PARTLY, UNANNOUNCED, UNSOURCED, WITHHELD)
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport Advertisement

from carp_fast.engine._vhid import (
    DEMOTION_WORDS as _DEMOTIONS, REASON_WORDS, STATE_WORDS)
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.engine.keys import ALL_KEYS

cdef enum:
    WORDS = sizeof(Checkpoint) // 8
    MARKS = (WORDS + 7) // 8        # bytes: a bit for each word, set unless it is 0
    PIECES_MAX = (MARKS + sizeof(Checkpoint) + PIECE_LENGTH - 1) // PIECE_LENGTH

RECORD_WORDS = (
    "checkpoint", "heard", "state", "turn", "advertised", "added", "removed", "changed", "address",
    "announced", "interface", "ordered", "absent", "dropped", "found",
    "undemoted")
ORDERED_WORDS = ("remove", "resign", "demote", "announce", "address_lost", "own_source", "adopt",
                 "in_use", "by_route", "yield", "preempt", "withhold")
assert len(RECORD_WORDS) == RECORD_KINDS and len(ORDERED_WORDS) == ORDERED_KINDS
assert sizeof(Record) == sizeof(Piece) == 64 and sizeof(Checkpoint) % 8 == 0
RECORD_BYTES = sizeof(Record)
CHECKPOINT_RECORDS_MAX = PIECES_MAX

# The flags of a host's state, by word; those of its configuration have keys of their own.
FLAG_WORDS = {
    "resign_after_removal": RESIGN_AFTER_REMOVAL, "leaving": LEAVING,
    "master_leaves": MASTER_LEAVES, "master_resigns": MASTER_RESIGNS,
    "demote_told": DEMOTE_TOLD, "send_demoted": SEND_DEMOTED,
    "announcing": ANNOUNCING, "silent_4": SILENT_4, "silent_6": SILENT_6,
    "contested": CONTESTED, "preceded": PRECEDED, "repeating": REPEATING, "extended": EXTENDED,
    "address_demoted": ADDRESS_DEMOTED, "barred": BARRED, "cannot_be_master": CANNOT_BE_MASTER,
    "duplicate": DUPLICATE, "refused_partly": REFUSED_PARTLY,
    "unannounced": UNANNOUNCED, "unsourced": UNSOURCED,
    "routed_once": ROUTED_ONCE, "holds_routes": HOLDS_ROUTES, "replaces_routes": REPLACES_ROUTES,
    "withheld": WITHHELD, "owed": OWED}
PENDING_WORDS = {
    "advertise": TO_ADVERTISE, "advertise_last": TO_ADVERTISE_LAST, "resign": TO_RESIGN,
    "change_addresses": TO_CHANGE_ADDRESSES, "announce": TO_ANNOUNCE,
    "tell_addresses": TO_TELL_ADDRESSES, "repeat": TO_REPEAT}
# Results of a check of an address: There in _upkeep.pxd.
THERE_WORDS = ("none", "ours", "foreign", "somebodys", "unknown", "route")
ADDRESS_WORDS = {"held": HELD, "foreign": FOREIGN, "failed": FAILED, "lost": LOST,
                 "lost_with_ours": LOST_WITH_OURS, "routed": ROUTED}


# ------------------------------------------------------------------------------------- the ring

cdef int recorder_open(Recorder* recorder, uint32_t capacity) except -1:
    """Make room for `capacity` records, a power of two. Raises MemoryError."""
    recorder_close(recorder)
    recorder.records = <Record*>calloc(capacity, sizeof(Record))
    if recorder.records == NULL:
        raise MemoryError("record")
    recorder.capacity = capacity
    # Not from 0, which means "no checkpoint yet" in a host.
    recorder.begin = recorder.tail = recorder.since = capacity
    recorder.turn_told = True
    return 0


cdef void recorder_close(Recorder* recorder) noexcept:
    free(recorder.records)
    memset(recorder, 0, sizeof(Recorder))


cdef inline Record* put(Recorder* recorder, uint8_t kind, uint32_t slot, uint16_t interface,
                        int64_t at_ns) noexcept nogil:
    cdef Record* record = &recorder.records[recorder.tail & (recorder.capacity - 1)]
    recorder.tail += 1
    memset(record, 0, sizeof(Record))
    record.kind, record.slot, record.interface, record.at_ns = kind, slot, interface, at_ns
    return record


cdef Record* record_input(Recorder* recorder, uint8_t kind, uint32_t slot, uint16_t interface,
                          int64_t at_ns) noexcept nogil:
    """A new record of an input; only called if `recorder.records` is not NULL.

    What follows from it immediately does not belong to the turn before.
    """
    recorder.turn_told = True
    return put(recorder, kind, slot, interface, at_ns)


cdef Record* record_output(Recorder* recorder, uint8_t kind, uint32_t slot, uint16_t interface,
                           int64_t at_ns) noexcept nogil:
    """A new record of a decision, after the turn that it belongs to."""
    cdef Record* record
    if not recorder.turn_told:
        recorder.turn_told = True
        record = put(recorder, RECORD_TURN, NOBODY, 0, recorder.turn_ns)
        record.value = <uint64_t>recorder.heard_until_ns
    return put(recorder, kind, slot, interface, at_ns)


cdef void record_turn(Recorder* recorder, int64_t now_ns, int64_t heard_until_ns) noexcept nogil:
    """Deadlines are checked: note the turn, which is recorded once something follows from it."""
    recorder.turn_ns, recorder.heard_until_ns = now_ns, heard_until_ns
    recorder.turn_told = False
    recorder_begin(recorder)


cdef void record_turn_of(Recorder* recorder, uint32_t slot, uint16_t interface) noexcept nogil:
    """Record the turn for a host of which nothing else shows that it was in it."""
    cdef Record* record
    if recorder.records != NULL:
        record = record_output(recorder, RECORD_TURN, slot, interface, recorder.turn_ns)
        record.value = <uint64_t>recorder.heard_until_ns


cdef void record_heard(Recorder* recorder, uint32_t slot, uint16_t interface, uint8_t verdict,
                       bint changes_host, const Advertisement* heard, int64_t at_ns) noexcept nogil:
    """Record a frame and its verdict. `heard.carp` is NULL if it was too short to have fields.

    Anybody can send frames that are refused: of those that change no host only so many a second
    are recorded, so that they do not overwrite the rest.
    """
    cdef Record* record
    if not changes_host:
        if at_ns - recorder.refused_from_ns >= <int64_t>SECOND_NS:
            recorder.refused_from_ns, recorder.refused = at_ns, 0
        recorder.refused += 1
        if recorder.refused > REFUSED_A_SECOND:
            recorder.unrecorded += 1
            return
    record = record_input(recorder, RECORD_HEARD, slot, interface, at_ns)
    record.detail = verdict
    if heard.carp == NULL:
        return
    memcpy(record.address, heard.source, 16)
    memcpy(record.mac, heard.source_mac, 6)
    record.family, record.vhid = heard.family, heard.vhid
    # Read from the frame: if a check failed early, the rest was not parsed.
    record.advskew, record.demote, record.advbase = heard.carp[2], heard.carp[4], heard.carp[5]
    if verdict == 0 or changes_host:
        record.value = heard.counter


cdef void recorder_copy(const Recorder* recorder, RecordCopy* copy) noexcept nogil:
    """Copy records from `copy.first` on, or from the oldest that is left."""
    cdef uint64_t oldest = recorder.begin
    cdef uint32_t at, before_wrap
    if recorder.tail - oldest > recorder.capacity:
        oldest = recorder.tail - recorder.capacity
    if copy.first < oldest:
        copy.first = oldest
    copy.begin, copy.end, copy.unrecorded = recorder.begin, recorder.tail, recorder.unrecorded
    copy.count = 0
    if copy.first >= recorder.tail:
        return
    copy.count = copy.room
    if recorder.tail - copy.first < copy.room:
        copy.count = <uint32_t>(recorder.tail - copy.first)
    at = copy.first & (recorder.capacity - 1)
    before_wrap = recorder.capacity - at
    if before_wrap > copy.count:
        before_wrap = copy.count
    memcpy(copy.records, &recorder.records[at], before_wrap * sizeof(Record))
    memcpy(copy.records + before_wrap, recorder.records,
           (copy.count - before_wrap) * sizeof(Record))


# ----------------------------------------------------------------------------------- checkpoints

cdef uint32_t pack(const Checkpoint* checkpoint, uint8_t* packed) noexcept nogil:
    """Pack a checkpoint, most of which is usually 0, into whole pieces; return their number."""
    cdef const uint8_t* words = <const uint8_t*>checkpoint
    cdef uint64_t word
    cdef uint32_t i, length = MARKS, used
    memset(packed, 0, MARKS)
    for i in range(WORDS):
        memcpy(&word, words + i * 8, 8)
        if word:
            packed[i // 8] |= <uint8_t>(1 << (i % 8))
            memcpy(packed + length, &word, 8)
            length += 8
    used = (length + PIECE_LENGTH - 1) // PIECE_LENGTH
    memset(packed + length, 0, used * PIECE_LENGTH - length)
    return used


cdef void unpack(const uint8_t* packed, Checkpoint* checkpoint) noexcept:
    cdef uint8_t* words = <uint8_t*>checkpoint
    cdef uint32_t i, at = MARKS
    memset(checkpoint, 0, sizeof(Checkpoint))
    for i in range(WORDS):
        if packed[i // 8] & (1 << (i % 8)):
            memcpy(words + i * 8, packed + at, 8)
            at += 8


cdef void record_checkpoint(Recorder* recorder, VirtualHost* host,
                            Checkpoint* checkpoint) noexcept nogil:
    """Record a checkpoint, and the addresses that are not as the host's state requires."""
    cdef uint8_t[PIECES_MAX * PIECE_LENGTH] packed
    cdef Piece* piece
    cdef Record* record
    cdef uint32_t i, k, pieces, named = 0
    cdef uint8_t here, flags
    cdef const Address* address
    host.recorded = <uint32_t>recorder.tail
    pieces = pack(checkpoint, packed)
    for i in range(pieces):
        piece = <Piece*>&recorder.records[(recorder.tail + i) & (recorder.capacity - 1)]
        piece.kind, piece.number, piece.pieces = RECORD_CHECKPOINT, <uint8_t>i, <uint8_t>pieces
        piece.slot = checkpoint.slot
        memcpy(piece.data, packed + i * PIECE_LENGTH, PIECE_LENGTH)
    recorder.tail += pieces
    for k in range(host.block.address_count):
        address = &host.block.addresses[k]
        flags = address.flags & (HELD | FOREIGN | FAILED | LOST | LOST_WITH_OURS)
        flags |= ROUTED if address.routed and flags & HELD else 0
        here = HELD if host.held else 0         # as assume() takes it
        here |= ROUTED if host.held and host.configured.by_route and address.family == 4 else 0
        if flags != here and named < CHECKPOINT_ADDRESSES:
            named += 1
            record = put(recorder, RECORD_ADDRESS, checkpoint.slot, checkpoint.interface,
                         checkpoint.at_ns)
            record.detail, record.family = flags, address.family
            memcpy(record.address, address.bytes, 16)


# ------------------------------------------------------------------------------------ for Python

cdef bytes address_of(const uint8_t* address, uint8_t family):
    """4 or 16 bytes, or None if there is no address."""
    return (<const char*>address)[:4 if family == 4 else 16] if family else None


cdef list words_of(dict words, uint32_t flags):
    return [word for word, flag in words.items() if flags & flag]


cdef object record_fields(const Record* record):
    """The fields of a record besides kind, time, slot and interface; see records_list."""
    cdef uint8_t kind = record.kind
    cdef int64_t[2] since
    cdef bytes address = address_of(record.address, record.family)
    if kind == RECORD_HEARD:
        return (VERDICT_WORDS[record.detail], address, record.vhid, record.advbase, record.advskew,
                record.demote, record.value, (<const char*>record.mac)[:6])
    if kind == RECORD_STATE:
        return STATE_WORDS[record.state], REASON_WORDS[record.reason]
    if kind == RECORD_ADVERTISED:
        return record.advbase, record.advskew, record.demote, record.error, record.detail
    if kind == RECORD_ADDED or kind == RECORD_REMOVED:
        return address, record.error, bool(record.detail)
    if kind == RECORD_FOUND:
        return address, THERE_WORDS[record.detail]
    if kind == RECORD_ADDRESS:
        return address, words_of(ADDRESS_WORDS, record.detail)
    if kind == RECORD_INTERFACE:
        return {"ifindex": <int>record.value, "up": bool(record.state),
                "mac": (<const char*>record.mac)[:6],
                "source": (<const char*>record.source4)[:4] if record.advbase else None,
                "source6": (<const char*>record.address)[:16] if record.advskew else None,
                "forwards6": bool(record.demote), "renamed": bool(record.detail & RENAMED),
                "announce": bool(record.detail & ANNOUNCED_ANEW)}
    if kind == RECORD_ORDERED and record.detail == ORDERED_ADOPT:
        return ORDERED_WORDS[record.detail], (address, record.value)
    if kind == RECORD_ORDERED and record.detail == ORDERED_OWN_SOURCE:
        return ORDERED_WORDS[record.detail], (bool(record.value & SOURCE_MISSING),
                                              bool(record.value & SOURCE6_MISSING))
    if kind == RECORD_ORDERED and record.detail == ORDERED_DEMOTE:
        return ORDERED_WORDS[record.detail], (record.value, _DEMOTIONS[record.reason],
                                              bool(record.state))
    if kind == RECORD_ORDERED and record.detail == ORDERED_YIELD:
        return ORDERED_WORDS[record.detail], REASON_WORDS[record.value]
    if kind == RECORD_ORDERED and record.detail == ORDERED_BY_ROUTE:
        return ORDERED_WORDS[record.detail], bool(record.value)
    if kind == RECORD_ORDERED:
        return ORDERED_WORDS[record.detail], record.value
    if kind == RECORD_TURN:
        return (record.value,)
    if kind == RECORD_ABSENT or kind == RECORD_DROPPED:
        memcpy(since, record.address, sizeof(since))
        return record.value, since[0], since[1]
    return ()


cdef list records_list(const Record* records, uint32_t count):
    """(kind, at_ns, slot or None, interface, fields) of each record, oldest first.

    Fields by kind: checkpoint: a dict, see checkpoint_dict; heard: verdict, source or None, vhid,
    advbase, advskew, demote, counter, MAC; state: state, reason; turn: heard until, ns; advertised:
    advbase, advskew, demote, errno; added, removed: address, errno, by route; found: address, word;
    address (of the checkpoint before): address, words; interface: a dict of Engine.set_interface's
    arguments; ordered: word, value, which is (address, prefix length) of "adopt", (amount, word,
    whether it is hard) of "demote" and (IPv4, IPv6 is missing) of "own_source"; absent, dropped:
    when deadlines were last checked, the beginning, the time asleep, ns. A checkpoint whose first
    piece was overwritten is left out.
    """
    cdef list found = []
    cdef uint8_t[PIECES_MAX * PIECE_LENGTH] packed
    cdef const Piece* piece
    cdef Checkpoint checkpoint
    cdef uint32_t i, expected = 0
    for i in range(count):
        if records[i].kind != RECORD_CHECKPOINT:
            found.append((
                RECORD_WORDS[records[i].kind], records[i].at_ns,
                None if records[i].slot == NOBODY else records[i].slot, records[i].interface,
                record_fields(&records[i])))
            continue
        piece = <const Piece*>&records[i]
        if piece.number == 0:
            expected = 0
        if piece.number != expected:
            continue
        memcpy(packed + expected * PIECE_LENGTH, piece.data, PIECE_LENGTH)
        expected += 1
        if expected == piece.pieces:
            unpack(packed, &checkpoint)
            found.append(("checkpoint", checkpoint.at_ns, checkpoint.slot, checkpoint.interface,
                          checkpoint_dict(&checkpoint)))
    return found


cdef dict settings_dict(const Checkpoint* of):
    """The host's configuration as far as the engine knows it: the values of ALL_KEYS by name, vhid,
    source and source6. A configured MAC is left out.
    """
    cdef dict numbers = of.configured
    cdef dict settings = {
        "vhid": of.vhid,
        "source": (<const char*>of.own_source4)[:4] if of.configured.own_source else None,
        "source6": (<const char*>of.own_source6)[:16] if of.configured.own_source6 else None}
    if of.configured.advertise_mac == OWN_MAC:
        numbers["advertise_mac"] = <int>INTERFACE_MAC
    for key in ALL_KEYS:
        settings[key.name] = key.value(numbers[key.field])
    return settings


cdef list ranges_list(const Range* ranges, uint32_t room):
    return [[ranges[i].begin, ranges[i].count, ranges[i].at_ms]
            for i in range(room) if ranges[i].count]


cdef dict history_dict(const History* of):
    """The counters that a host remembers: [first, count, time in ms] of each range."""
    cdef dict history = {
        "sent": ranges_list(of.sent, HISTORY_SENT),
        "lately": ranges_list(of.lately, HISTORY_LATELY),
        "formerly": ranges_list(of.formerly, HISTORY_FORMERLY)}
    return {key: ranges for key, ranges in history.items() if ranges}


cdef int fill_ranges(Range* ranges, uint32_t room, given) except -1:
    cdef uint32_t i
    if len(given) > room:
        raise ValueError(f"at most {room} ranges of counters")
    for i in range(len(given)):
        ranges[i].begin, ranges[i].count, ranges[i].at_ms = given[i]
    return 0


cdef int fill_history(History* history, dict given) except -1:
    """The reverse of history_dict."""
    fill_ranges(history.sent, HISTORY_SENT, given.get("sent", ()))
    fill_ranges(history.lately, HISTORY_LATELY, given.get("lately", ()))
    fill_ranges(history.formerly, HISTORY_FORMERLY, given.get("formerly", ()))
    return 0


cdef uint64_t oldest_sent(const History* history) noexcept:
    """The first counter of ours whose time is known; 0: there is none."""
    cdef uint64_t begin = 0
    cdef uint32_t i
    for i in range(HISTORY_SENT):
        if history.sent[i].count:
            begin = history.sent[i].begin
    return begin


cdef int fill_mac(uint8_t* to, bytes mac) except -1:
    if len(mac) not in (0, 6):
        raise ValueError("a MAC has 6 bytes")
    memcpy(to, <const char*>mac, len(mac))
    return 0


cdef dict demotions_dict(const Checkpoint* of):
    """The demotions that were ordered, by reason."""
    cdef int by
    return {_DEMOTIONS[by]: of.ordered[by] for by in range(ORDERED_BY) if of.ordered[by]}


cdef dict state_dict(const Checkpoint* of):
    """A host's state without the values that are 0 or empty. See fill_checkpoint."""
    cdef dict state = {
        "state": STATE_WORDS[of.state], "reason": REASON_WORDS[of.reason],
        "flags": words_of(FLAG_WORDS, of.flags), "pending": words_of(PENDING_WORDS, of.pending),
        "demotions": demotions_dict(of), "held": of.held, "failed_sends": of.failed_sends,
        "good_sends": of.good_sends, "repeat_in": of.repeat_in,
        "announce_left": of.announce_left, "counter": of.counter, "deadline_ns": of.deadline_ns,
        "preempt_from_ns": of.preempt_from_ns, "since_ns": of.since_ns,
        "heard4_ns": of.heard_ns[0], "heard6_ns": of.heard_ns[1], "answered_ns": of.answered_ns,
        "announce_at_ns": of.announce_at_ns, "tie_since_ns": of.tie_since_ns,
        "judged_ns": of.judged_ns, "duplicate_ms": of.duplicate_ms,
        "duplicate_mac": (<const char*>of.duplicate_mac)[:6] if of.duplicate_ms else b"",
        "history": history_dict(&of.history), "first_sent": of.first_sent,
        "jitter_ns": of.jitter_us * <int64_t>1000,
        "stranger4": of.stranger[0], "stranger4_ms": of.stranger_ms[0],
        "stranger6": of.stranger[1], "stranger6_ms": of.stranger_ms[1],
        "ties": of.ties, "settled_ns": of.settled_ns,
        "retry_at_ns": of.retry_at_ns, "without_ns": of.without_ns,
        "demoted_until_ns": of.demoted_until_ns, "leaving_ns": of.leaving_ns,
        "owed_at_ns": of.owed_at_ns if of.flags & OWED else 0,
        "failing_ns": of.failing_ns, "announce_from": of.announce_from,
        "retries": of.retries, "losses": of.losses,
        "lost_reason": REASON_WORDS[of.lost_reason], "sources": [],
        "absences": [[of.absences[i].since_ns, of.absences[i].until_ns, of.absences[i].asleep_ns,
                      of.absences[i].dropped] for i in range(of.absence_count)]}
    cdef const Source* source
    cdef int i
    for i in range(SOURCES):
        source = &of.sources[i]
        if source.heard_ns:
            place = {} if len(state["sources"]) == i else {"place": i}  # one before it is free
            state["sources"].append(place | {
                "address": address_of(source.address, source.family),
                "mac": (<const char*>source.mac)[:6], "counter": source.counter,
                "refused": source.refused, "heard_ns": source.heard_ns, "advbase": source.advbase,
                "advskew": source.advskew, "demote": source.demote, "ascended": source.ascended,
                "refusals": source.refusals, "run": source.run,
                "noted_ms": source.noted_ms, "genuine": bool(source.genuine),
                "constant": bool(source.constant),
                "current": of.master[source.family == 6] == i + 1})
    return {key: value for key, value in state.items() if value or key in ("state", "reason")}


cdef dict checkpoint_dict(const Checkpoint* checkpoint):
    """A checkpoint as plain values: addresses as bytes, times in ns of the engine's clock."""
    return {
        "added": bool(checkpoint.added), "changed": bool(checkpoint.changed),
        "wake_tick_ns": checkpoint.wake_tick_ns, "seed": checkpoint.seed,
        "pace": [checkpoint.pace[i] for i in range(3)],
        "interface": {
            "ifindex": checkpoint.ifindex, "up": bool(checkpoint.up),
            "mac": (<const char*>checkpoint.mac)[:6],
            "source": (<const char*>checkpoint.source)[:4] if checkpoint.has_source else None,
            "source6": (<const char*>checkpoint.source6)[:16] if checkpoint.has_source6 else None,
            "forwards6": bool(checkpoint.forwards6), "renamed": bool(checkpoint.renamed),
            "announce": False},
        "settings": settings_dict(checkpoint), "state": state_dict(checkpoint)}


cdef uint32_t flags_of(dict words, names) except? 0xffffffff:
    cdef uint32_t flags = 0
    for name in names:
        flags |= words[name]
    return flags


cdef int fill_source(Source* source, dict fields) except -1:
    cdef bytes address = fields["address"], mac = fields["mac"]
    if len(address) not in (4, 16) or len(mac) != 6:
        raise ValueError("a source has 4 or 16 bytes and a MAC 6")
    source.family = 4 if len(address) == 4 else 6
    memcpy(source.address, <const char*>address, len(address))
    memcpy(source.mac, <const char*>mac, 6)
    source.counter, source.refused = fields["counter"], fields["refused"]
    source.heard_ns = fields["heard_ns"]
    source.advbase, source.advskew = fields["advbase"], fields["advskew"]
    source.demote, source.ascended = fields["demote"], fields["ascended"]
    source.refusals, source.run = fields["refusals"], fields.get("run", 0)
    source.noted_ms, source.genuine = fields.get("noted_ms", 0), fields.get("genuine", False)
    source.constant = fields.get("constant", False)
    return 0


cdef int fill_checkpoint(Checkpoint* checkpoint, dict state) except -1:
    """The reverse of checkpoint_dict()["state"]. Raises ValueError, KeyError."""
    cdef Checkpoint* to = checkpoint
    cdef int i
    memset(to, 0, sizeof(Checkpoint))
    given = dict(state)
    take = given.pop
    to.state = STATE_WORDS.index(take("state"))
    to.reason = REASON_WORDS.index(take("reason"))
    to.flags = flags_of(FLAG_WORDS, take("flags", ()))
    to.pending = <uint8_t>flags_of(PENDING_WORDS, take("pending", ()))
    to.held = take("held", 0)
    for word, amount in take("demotions", {}).items():
        to.ordered[_DEMOTIONS[:ORDERED_BY].index(word)] = amount
    to.failed_sends, to.good_sends = take("failed_sends", 0), take("good_sends", 0)
    to.repeat_in, to.announce_left = take("repeat_in", 0), take("announce_left", 0)
    to.counter, to.deadline_ns = take("counter", 0), take("deadline_ns", 0)
    to.preempt_from_ns, to.since_ns = take("preempt_from_ns", 0), take("since_ns", 0)
    to.heard_ns[0], to.heard_ns[1] = take("heard4_ns", 0), take("heard6_ns", 0)
    to.answered_ns, to.announce_at_ns = take("answered_ns", 0), take("announce_at_ns", 0)
    to.tie_since_ns, to.judged_ns = take("tie_since_ns", 0), take("judged_ns", 0)
    to.duplicate_ms = take("duplicate_ms", 0)
    fill_mac(to.duplicate_mac, take("duplicate_mac", b""))
    fill_history(&to.history, take("history", {}))
    # Recordings of former versions do not have it.
    to.first_sent = take("first_sent", oldest_sent(&to.history))
    to.stranger[0], to.stranger_ms[0] = take("stranger4", 0), take("stranger4_ms", 0)
    to.stranger[1], to.stranger_ms[1] = take("stranger6", 0), take("stranger6_ms", 0)
    to.jitter_us, to.ties = take("jitter_ns", 0) // 1000, take("ties", 0)
    to.settled_ns = take("settled_ns", 0)
    to.retry_at_ns, to.without_ns = take("retry_at_ns", 0), take("without_ns", 0)
    to.demoted_until_ns, to.retries = take("demoted_until_ns", 0), take("retries", 0)
    to.leaving_ns, to.owed_at_ns = take("leaving_ns", 0), take("owed_at_ns", 0)
    to.failing_ns, to.announce_from = take("failing_ns", 0), take("announce_from", 0)
    to.losses, to.lost_reason = take("losses", 0), REASON_WORDS.index(take("lost_reason", ""))
    absences = take("absences", ())
    if len(absences) > CHECKPOINT_ABSENCES:
        raise ValueError(f"at most {CHECKPOINT_ABSENCES} absences")
    to.absence_count = <uint8_t>len(absences)
    for i in range(len(absences)):
        (to.absences[i].since_ns, to.absences[i].until_ns, to.absences[i].asleep_ns,
         to.absences[i].dropped) = absences[i]
    sources = take("sources", ())
    if len(sources) > SOURCES or given:
        raise ValueError(f"at most {SOURCES} sources" if not given else f"unknown: {list(given)}")
    for i, source in enumerate(sources):
        i = source.get("place", i)
        if not 0 <= i < SOURCES or to.sources[i].family:
            raise ValueError(f"sources: place = {i}: below {SOURCES}, each once")
        fill_source(&to.sources[i], source)
        if source["current"]:
            to.master[to.sources[i].family == 6] = i + 1
    return 0
