"""The fields of a virtual host's state: one table, for recordings and for states handed over.

A checkpoint, for a recording, has the fields that decide what a host does next; a state that
another process takes over (_state.pyx) has all of them. What is not in the table is made anew, and
REBUILT says from what. Uses no engine, socket, clock or file.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from carp_fast.engine._history cimport Range
from carp_fast.engine._vhid cimport SOURCES, vhid_source, VirtualHost

# The fields of VirtualHost that are not handed over, and why.
REBUILT = {
    "block": "addresses and outputs are the successor's; address and former keys have tables",
    "sources": "a place in the successor's memory; source is a table",
    "sources_apart": "as sources",
    "next_same": "the index of the successor's table",
    "recorded": "a recording begins anew",
    "held": "counted from the addresses",
    "demotion": "the sum of ordered",
    "key": "made from the successor's configuration",
    "configured": "the successor's configuration; what orders change of it has rows",
    "mac": "written with the frames",
    "asked": "0: nothing is handed over before every change has its outcome",
    "generation": "of the slot: requests of the former process have their outcomes",
    "group": "the successor's number of it",
    "group_next": "as group",
    "group_previous": "as group",
    "group_all": "the successor's configuration",
    "configuration": "the successor numbers its own",
    "took_from_ns": "0: nothing is handed over before every change has its outcome",
    "to_line": "no field",
}

cdef VirtualHost h                  # of these only the places of their fields are used
cdef Checkpoint c


cdef int put(Table* table, str name, size_t at, size_t size, size_t width=0) except -1:
    """Add a row: a field at this place, of this many bytes, `width` each if it is an array."""
    cdef Field* field = &table.fields[table.count]
    cdef bytes encoded = name.encode()
    if table.count == FIELDS_MAX or len(encoded) >= NAME_ROOM:
        raise ValueError(f"{name}: at most {FIELDS_MAX} fields, of {NAME_ROOM - 1} bytes each")
    memset(field, 0, sizeof(Field))
    memcpy(field.name, <const char*>encoded, len(encoded))
    field.width = <uint32_t>(width or size)
    field.at, field.count = <uint32_t>at, <uint32_t>(size // field.width)
    field.recorded_at = NOT_RECORDED
    table.count += 1
    return 0


cdef list rows_of(const Table* table):
    """(name, place, width, count, place in a checkpoint or None) of each field."""
    cdef uint32_t i
    return [((<bytes>table.fields[i].name).decode(), table.fields[i].at, table.fields[i].width,
             table.fields[i].count, None if table.fields[i].recorded_at == NOT_RECORDED
             else table.fields[i].recorded_at) for i in range(table.count)]


cdef size_t offset(const void* field) noexcept:
    return <size_t>field - <size_t>&h


cdef size_t of(const void* field) noexcept:
    return <size_t>field - <size_t>&c


cdef int put_both(str name, size_t at, size_t size, size_t recorded_at,
                  size_t width=0) except -1:
    """Add a row of a host's field that a checkpoint has, too."""
    put(&HOST, name, at, size, width)
    HOST.fields[HOST.count - 1].recorded_at = <uint32_t>recorded_at
    return 0


memset(&HOST, 0, sizeof(HOST))
put_both("counter", offset(&h.counter), sizeof(h.counter), of(&c.counter))
put(&HOST, "heard", offset(&h.heard), sizeof(h.heard))
put_both("deadline_ns", offset(&h.deadline_ns), sizeof(h.deadline_ns), of(&c.deadline_ns))
put_both("heard_ns", offset(&h.heard_ns), sizeof(h.heard_ns), of(&c.heard_ns), 8)
put_both("flags", offset(&h.flags), sizeof(h.flags), of(&c.flags))
put(&HOST, "source4", offset(&h.source4), sizeof(h.source4), 1)
put(&HOST, "interface", offset(&h.interface), sizeof(h.interface))
put_both("state", offset(&h.state), sizeof(h.state), of(&c.state))
put_both("reason", offset(&h.reason), sizeof(h.reason), of(&c.reason))
put_both("pending", offset(&h.pending), sizeof(h.pending), of(&c.pending))
put_both("master", offset(&h.master), sizeof(h.master), of(&c.master), 1)
put(&HOST, "vhid", offset(&h.vhid), sizeof(h.vhid))
put_both("preempt_from_ns", offset(&h.preempt_from_ns), sizeof(h.preempt_from_ns),
         of(&c.preempt_from_ns))
put_both("jitter_us", offset(&h.jitter_us), sizeof(h.jitter_us), of(&c.jitter_us))
put(&HOST, "destination4", offset(&h.destination4), sizeof(h.destination4), 1)
put(&HOST, "source6", offset(&h.source6), sizeof(h.source6), 1)
put_both("failed_sends", offset(&h.failed_sends), sizeof(h.failed_sends), of(&c.failed_sends))
put_both("good_sends", offset(&h.good_sends), sizeof(h.good_sends), of(&c.good_sends))
put_both("repeat_in", offset(&h.repeat_in), sizeof(h.repeat_in), of(&c.repeat_in))
put_both("announce_left", offset(&h.announce_left), sizeof(h.announce_left), of(&c.announce_left))
put_both("ties", offset(&h.ties), sizeof(h.ties), of(&c.ties))
put(&HOST, "group6", offset(&h.group6), sizeof(h.group6))
put(&HOST, "configured.own_source", offset(&h.configured.own_source), 1)
put(&HOST, "configured.own_source6", offset(&h.configured.own_source6), 1)
put(&HOST, "configured.source_missing", offset(&h.configured.source_missing), 1)
put(&HOST, "configured.source6_missing", offset(&h.configured.source6_missing), 1)
put(&HOST, "configured.by_route", offset(&h.configured.by_route), 1)
put_both("tie_since_ns", offset(&h.tie_since_ns), sizeof(h.tie_since_ns), of(&c.tie_since_ns))
put_both("judged_ns", offset(&h.judged_ns), sizeof(h.judged_ns), of(&c.judged_ns))
put_both("announce_at_ns", offset(&h.announce_at_ns), sizeof(h.announce_at_ns),
         of(&c.announce_at_ns))
put_both("answered_ns", offset(&h.answered_ns), sizeof(h.answered_ns), of(&c.answered_ns))
put(&HOST, "sent", offset(&h.sent), sizeof(h.sent))
put_both("since_ns", offset(&h.since_ns), sizeof(h.since_ns), of(&c.since_ns))
put(&HOST, "told_duplicate_ms", offset(&h.told_duplicate_ms), sizeof(h.told_duplicate_ms))
put(&HOST, "told_other_master_ms", offset(&h.told_other_master_ms), sizeof(h.told_other_master_ms))
put(&HOST, "told_reasserted_ms", offset(&h.told_reasserted_ms), sizeof(h.told_reasserted_ms))
put(&HOST, "told_reset_ms", offset(&h.told_reset_ms), sizeof(h.told_reset_ms))
put(&HOST, "announced", offset(&h.announced), sizeof(h.announced))
put(&HOST, "send_errors", offset(&h.send_errors), sizeof(h.send_errors))
put(&HOST, "became_master", offset(&h.became_master), sizeof(h.became_master))
put(&HOST, "addresses_restored", offset(&h.addresses_restored), sizeof(h.addresses_restored))
put(&HOST, "rejected", offset(&h.rejected), sizeof(h.rejected), 4)
put(&HOST, "duplicates", offset(&h.duplicates), sizeof(h.duplicates))
put(&HOST, "counter_resets", offset(&h.counter_resets), sizeof(h.counter_resets))
put(&HOST, "family_silences", offset(&h.family_silences), sizeof(h.family_silences))
put_both("settled_ns", offset(&h.settled_ns), sizeof(h.settled_ns), of(&c.settled_ns))
put_both("duplicate_ms", offset(&h.duplicate_ms), sizeof(h.duplicate_ms), of(&c.duplicate_ms))
put_both("duplicate_mac", offset(&h.duplicate_mac), sizeof(h.duplicate_mac),
         of(&c.duplicate_mac), 1)
put_both("history.sent", offset(&h.history.sent), sizeof(h.history.sent),
         of(&c.history.sent), sizeof(Range))
put_both("history.lately", offset(&h.history.lately), sizeof(h.history.lately),
         of(&c.history.lately), sizeof(Range))
put_both("history.formerly", offset(&h.history.formerly), sizeof(h.history.formerly),
         of(&c.history.formerly), sizeof(Range))
put_both("stranger", offset(&h.stranger), sizeof(h.stranger), of(&c.stranger), 8)
put_both("stranger_ms", offset(&h.stranger_ms), sizeof(h.stranger_ms), of(&c.stranger_ms), 4)
put_both("retry_at_ns", offset(&h.retry_at_ns), sizeof(h.retry_at_ns), of(&c.retry_at_ns))
put_both("without_ns", offset(&h.without_ns), sizeof(h.without_ns), of(&c.without_ns))
put_both("demoted_until_ns", offset(&h.demoted_until_ns), sizeof(h.demoted_until_ns),
         of(&c.demoted_until_ns))
put_both("leaving_ns", offset(&h.leaving_ns), sizeof(h.leaving_ns), of(&c.leaving_ns))
put_both("losses", offset(&h.losses), sizeof(h.losses), of(&c.losses))
put_both("lost_reason", offset(&h.lost_reason), sizeof(h.lost_reason), of(&c.lost_reason))
put_both("failing_ns", offset(&h.failing_ns), sizeof(h.failing_ns), of(&c.failing_ns))
put_both("announce_from", offset(&h.announce_from), sizeof(h.announce_from), of(&c.announce_from))
put(&HOST, "announce_errors", offset(&h.announce_errors), sizeof(h.announce_errors))
put_both("first_sent", offset(&h.first_sent), sizeof(h.first_sent), of(&c.first_sent))
put_both("retries", offset(&h.retries), sizeof(h.retries), of(&c.retries))
put_both("ordered", offset(&h.ordered), sizeof(h.ordered), of(&c.ordered), 1)
put(&HOST, "impeded", offset(&h.impeded), sizeof(h.impeded))
put(&HOST, "transitions", offset(&h.transitions), sizeof(h.transitions))

HOST_FIELDS = rows_of(&HOST)
HOST_BYTES, CHECKPOINT_BYTES = sizeof(VirtualHost), sizeof(Checkpoint)


cdef void checkpoint_take(const VirtualHost* host, Checkpoint* checkpoint) noexcept nogil:
    """Copy the state of a host that decides what it does next, and its configuration."""
    cdef const Field* field
    cdef uint32_t i
    for i in range(HOST.count):
        field = &HOST.fields[i]
        if field.recorded_at != NOT_RECORDED:
            memcpy(<char*>checkpoint + field.recorded_at, <const char*>host + field.at,
                   field.width * field.count)
    checkpoint.vhid, checkpoint.configured = host.vhid, host.configured
    checkpoint.held = host.held
    memcpy(checkpoint.own_source4, host.source4, 4)
    memcpy(checkpoint.own_source6, host.source6, 16)
    for i in range(SOURCES):
        checkpoint.sources[i] = vhid_source(host, i)[0]


cdef void checkpoint_put_back(VirtualHost* host, const Checkpoint* checkpoint) noexcept nogil:
    """The reverse, but for the configuration and what is held."""
    cdef const Field* field
    cdef uint32_t i
    for i in range(HOST.count):
        field = &HOST.fields[i]
        if field.recorded_at != NOT_RECORDED:
            memcpy(<char*>host + field.at, <const char*>checkpoint + field.recorded_at,
                   field.width * field.count)
    for i in range(SOURCES):
        vhid_source(host, i)[0] = checkpoint.sources[i]
