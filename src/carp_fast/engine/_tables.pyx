"""The tables of the fields of a state that another process takes over, and their order.

One table for each kind of record; that of virtual hosts is in _fields.pyx. WORDS has the numbers of
everything that is a number for a word: another version refuses a state if it has others. Uses no
engine, socket, clock or file.
"""

from libc.string cimport memset

from carp_fast.engine._absence cimport Absence
from carp_fast.engine._core cimport Core, Interface, Rejection
from carp_fast.engine._fields cimport HOST, put, rows_of
from carp_fast.engine._vhid cimport Address, AlternateKey, IN_USE, Source

from carp_fast.engine._recorder import ADDRESS_WORDS, FLAG_WORDS, PENDING_WORDS
from carp_fast.engine._vhid import DEMOTION_WORDS, REASON_WORDS, STATE_WORDS
from carp_fast.engine._wire import VERDICT_WORDS

SECTION_WORDS = ("engine", "absence", "interface", "rejection", "host", "source", "address", "key",
                 "queued", "turn", "receiver")
QUEUE_WORDS = ("advertise_first", "advertise", "owed", "change", "announce", "repeat")
assert len(SECTION_WORDS) == SECTIONS and len(QUEUE_WORDS) == QUEUES

WORDS = {
    f"{kind}.{word}": number
    for kind, words in (
        ("state", enumerate(STATE_WORDS)), ("reason", enumerate(REASON_WORDS)),
        ("verdict", enumerate(VERDICT_WORDS)), ("demotion", enumerate(DEMOTION_WORDS)),
        ("queue", enumerate(QUEUE_WORDS)))
    for number, word in words} | {
    f"{kind}.{word}": flag
    for kind, words in (
        ("flag", {"in_use": IN_USE, **FLAG_WORDS}), ("pending", PENDING_WORDS),
        ("address", {word: flag for word, flag in ADDRESS_WORDS.items() if word != "routed"}))
    for word, flag in words.items()}

# The fields of these structs that are not handed over, and why.
REBUILT_OF_INTERFACES = {
    "announce": "only in an order",
    "hosts": "counted when hosts are added",
    "rejections": "rejection is a table",
    "rejections_count": "counted from them",
}
REBUILT_OF_ENGINES = {
    "room": "the successor's memory",
    "hosts": "host is a table",
    "sources_room": "the successor's memory",
    "sources": "source is a table",
    "interfaces": "interface is a table",
    "index": "written when hosts are added",
    "slots": "counted when hosts are added",
    "used": "counted when hosts are added",
    "addresses": "counted when hosts are added",
    "former_keys": "counted when hosts are added",
    "groups": "from their members",
    "group_count": "from their members",
    "first_due": "every group is due once",
    "last_due": "every group is due once",
    "due_ns": "every group is due once",
    "wake_tick_ns": "from the intervals",
    "longest_tick_ns": "the successor's setting",
    "shortest_ns": "from the intervals",
    "shortest_left": "from the intervals",
    "absences": "absence is a table",
    "flush_mark": "a mark of the former process",
    "wheel": "armed by the deadlines, those of one tick in the order of slots",
    "advertise_first": "queued is a table",
    "upkeep": "armed by the hosts' times",
    "verify_at_ns": "the earliest of the interfaces'",
    "interface_count": "from the interfaces",
    "advertise": "queued is a table",
    "owed": "queued is a table",
    "change": "queued is a table",
    "announce": "queued is a table",
    "repeat": "queued is a table",
    "pace": "the successor's setting",
    "paced_until_ns": "found when announcements are sent",
    "repeating": "found when announcements are sent",
    "reports": "the former process has its own",
    "unreturned": "memory of the former process",
    "undone_mark": "a mark of the former process",
    "recorder": "a recording begins anew",
    "figures": "metrics begin anew, as after a restart",
}

cdef Core e                         # of these only the places of their fields are used
cdef Interface i
cdef Rejection r
cdef Source s
cdef Address a
cdef AlternateKey k
cdef Absence b
cdef Queued q
cdef TurnState t
cdef ReceiverState v


cdef int row(Section section, const void* of, str name, const void* field, size_t size,
             size_t width=0) except -1:
    put(&TABLES[<int>section], name, <size_t>field - <size_t>of, size, width)
    return 0


memset(TABLES, 0, sizeof(TABLES))
TABLES[<int>OF_HOST] = HOST
row(OF_ENGINE, &e, "seed", &e.seed, sizeof(e.seed))
row(OF_ENGINE, &e, "taken_ns", &e.taken_ns, sizeof(e.taken_ns))
row(OF_ENGINE, &e, "owed_at_ns", &e.owed_at_ns, sizeof(e.owed_at_ns))
row(OF_ENGINE, &e, "announced_until_ns", &e.announced_until_ns, sizeof(e.announced_until_ns))

row(OF_ABSENCE, &b, "since_ns", &b.since_ns, sizeof(b.since_ns))
row(OF_ABSENCE, &b, "until_ns", &b.until_ns, sizeof(b.until_ns))
row(OF_ABSENCE, &b, "asleep_ns", &b.asleep_ns, sizeof(b.asleep_ns))
row(OF_ABSENCE, &b, "dropped", &b.dropped, sizeof(b.dropped))

row(OF_INTERFACE, &i, "ifindex", &i.ifindex, sizeof(i.ifindex))
row(OF_INTERFACE, &i, "up", &i.up, sizeof(i.up))
row(OF_INTERFACE, &i, "has_source", &i.has_source, sizeof(i.has_source))
row(OF_INTERFACE, &i, "has_source6", &i.has_source6, sizeof(i.has_source6))
row(OF_INTERFACE, &i, "forwards6", &i.forwards6, sizeof(i.forwards6))
row(OF_INTERFACE, &i, "renamed", &i.renamed, sizeof(i.renamed))
row(OF_INTERFACE, &i, "known", &i.known, sizeof(i.known))
row(OF_INTERFACE, &i, "routes_due", &i.routes_due, sizeof(i.routes_due))
row(OF_INTERFACE, &i, "mac", &i.mac, sizeof(i.mac), 1)
row(OF_INTERFACE, &i, "source", &i.source, sizeof(i.source), 1)
row(OF_INTERFACE, &i, "source6", &i.source6, sizeof(i.source6), 1)
row(OF_INTERFACE, &i, "sent", &i.sent, sizeof(i.sent))
row(OF_INTERFACE, &i, "heard", &i.heard, sizeof(i.heard))
row(OF_INTERFACE, &i, "announced", &i.announced, sizeof(i.announced))
row(OF_INTERFACE, &i, "paced", &i.paced, sizeof(i.paced))
row(OF_INTERFACE, &i, "announce_errors", &i.announce_errors, sizeof(i.announce_errors))
row(OF_INTERFACE, &i, "send_errors", &i.send_errors, sizeof(i.send_errors))
row(OF_INTERFACE, &i, "became_master", &i.became_master, sizeof(i.became_master))
row(OF_INTERFACE, &i, "rejected", &i.rejected, sizeof(i.rejected), 8)
row(OF_INTERFACE, &i, "announced_until_ns", &i.announced_until_ns, sizeof(i.announced_until_ns))
row(OF_INTERFACE, &i, "refused_until_ns", &i.refused_until_ns, sizeof(i.refused_until_ns))
row(OF_INTERFACE, &i, "verify_at_ns", &i.verify_at_ns, sizeof(i.verify_at_ns))
row(OF_INTERFACE, &i, "removed_ns", &i.removed_ns, sizeof(i.removed_ns))

row(OF_REJECTION, &r, "at_ns", &r.at_ns, sizeof(r.at_ns))
row(OF_REJECTION, &r, "source", &r.source, sizeof(r.source), 1)
row(OF_REJECTION, &r, "verdict", &r.verdict, sizeof(r.verdict))
row(OF_REJECTION, &r, "family", &r.family, sizeof(r.family))
row(OF_REJECTION, &r, "vhid", &r.vhid, sizeof(r.vhid))

row(OF_SOURCE, &s, "address", &s.address, sizeof(s.address), 1)
row(OF_SOURCE, &s, "counter", &s.counter, sizeof(s.counter))
row(OF_SOURCE, &s, "refused", &s.refused, sizeof(s.refused))
row(OF_SOURCE, &s, "heard_ns", &s.heard_ns, sizeof(s.heard_ns))
row(OF_SOURCE, &s, "mac", &s.mac, sizeof(s.mac), 1)
row(OF_SOURCE, &s, "family", &s.family, sizeof(s.family))
row(OF_SOURCE, &s, "advbase", &s.advbase, sizeof(s.advbase))
row(OF_SOURCE, &s, "advskew", &s.advskew, sizeof(s.advskew))
row(OF_SOURCE, &s, "demote", &s.demote, sizeof(s.demote))
row(OF_SOURCE, &s, "ascended", &s.ascended, sizeof(s.ascended))
row(OF_SOURCE, &s, "refusals", &s.refusals, sizeof(s.refusals))
row(OF_SOURCE, &s, "genuine", &s.genuine, sizeof(s.genuine))
row(OF_SOURCE, &s, "constant", &s.constant, sizeof(s.constant))
row(OF_SOURCE, &s, "noted_ms", &s.noted_ms, sizeof(s.noted_ms))
row(OF_SOURCE, &s, "run", &s.run, sizeof(s.run))

row(OF_ADDRESS, &a, "bytes", &a.bytes, sizeof(a.bytes), 1)
row(OF_ADDRESS, &a, "family", &a.family, sizeof(a.family))
row(OF_ADDRESS, &a, "prefixlen", &a.prefixlen, sizeof(a.prefixlen))
row(OF_ADDRESS, &a, "flags", &a.flags, sizeof(a.flags))
row(OF_ADDRESS, &a, "error", &a.error, sizeof(a.error))
row(OF_ADDRESS, &a, "routed", &a.routed, sizeof(a.routed))

row(OF_KEY, &k, "inner", &k.key.inner, sizeof(k.key.inner), 4)
row(OF_KEY, &k, "outer", &k.key.outer, sizeof(k.key.outer), 4)
row(OF_KEY, &k, "hashed", &k.key.hashed, sizeof(k.key.hashed))
row(OF_KEY, &k, "tail_length", &k.key.tail_length, sizeof(k.key.tail_length))
row(OF_KEY, &k, "tail", &k.key.tail, sizeof(k.key.tail), 1)
row(OF_KEY, &k, "until_ns", &k.until_ns, sizeof(k.until_ns))

row(OF_QUEUED, &q, "queue", &q.queue, sizeof(q.queue))

row(OF_TURN, &t, "begun_ns", &t.begun_ns, sizeof(t.begun_ns))
row(OF_TURN, &t, "suspended_ns", &t.suspended_ns, sizeof(t.suspended_ns))
row(OF_TURN, &t, "latest_ns", &t.latest_ns, sizeof(t.latest_ns))
row(OF_TURN, &t, "turns", &t.turns, sizeof(t.turns))
row(OF_TURN, &t, "frames", &t.frames, sizeof(t.frames))
row(OF_TURN, &t, "dropped", &t.dropped, sizeof(t.dropped))
row(OF_TURN, &t, "unproven", &t.unproven, sizeof(t.unproven))

row(OF_RECEIVER, &v, "heard_until_ns", &v.heard_until_ns, sizeof(v.heard_until_ns))
row(OF_RECEIVER, &v, "kind", &v.kind, sizeof(v.kind), 1)
row(OF_RECEIVER, &v, "lane", &v.lane, sizeof(v.lane), 1)

FIELDS = {word: rows_of(&TABLES[<int>number]) for number, word in enumerate(SECTION_WORDS)}
