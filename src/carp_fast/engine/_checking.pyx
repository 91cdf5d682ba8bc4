"""What no engine can have written into a state: checked before anything of it is placed.

Indexes, shifts and counts, and the order of the records, so that whatever a state holds can do no
harm. Of 65,280 virtual hosts that takes milliseconds: only the fields in question are read. Uses no
socket and no clock.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from carp_fast.engine._absence cimport ABSENCES
from carp_fast.engine._core cimport MAX_INTERFACES, MAX_VIRTUAL_HOSTS, Rejection
from carp_fast.engine._state cimport (
    byte_in, Part, part_field, part_of_number, part_record, short_in, SOURCES_APART, word_in)
from carp_fast.engine._tables cimport (
    OF_ABSENCE, OF_ADDRESS, OF_HOST, OF_INTERFACE, OF_KEY, OF_QUEUED, OF_RECEIVER, OF_REJECTION,
    OF_SOURCE, QUEUES, Queued, RECEIVERS)
from carp_fast.engine._vhid cimport (
    Address, AlternateKey, ASKED, IN_USE, MASTER, REASONS, Source, SOURCES, VirtualHost)
from carp_fast.engine._wire cimport VERDICTS

cdef enum:
    BLOCK = 64                  # of SHA-1, bytes
    DOUBLINGS_MAX = 10          # of a retry's wait; of a demotion's, fewer

cdef VirtualHost h                  # of these only the places of their fields are used
cdef Source s
cdef Address a
cdef AlternateKey k
cdef Queued q
cdef Rejection r


cdef uint32_t place_of(const Part* part, const void* struct_, const void* field) noexcept:
    return part_field(part, <size_t>field - <size_t>struct_)


cdef HostSpots host_spots(const Part* part) noexcept:
    """Where in a record of a host the fields are that are read one by one."""
    cdef HostSpots at
    at.state, at.reason = place_of(part, &h, &h.state), place_of(part, &h, &h.reason)
    at.lost_reason, at.pending = place_of(part, &h, &h.lost_reason), place_of(part, &h, &h.pending)
    at.master4 = place_of(part, &h, &h.master[0])
    at.master6 = place_of(part, &h, &h.master[1])
    at.retries, at.losses = place_of(part, &h, &h.retries), place_of(part, &h, &h.losses)
    at.vhid, at.interface = place_of(part, &h, &h.vhid), place_of(part, &h, &h.interface)
    at.flags = place_of(part, &h, &h.flags)
    return at


cdef bint host_is_sound(const uint8_t* was, const HostSpots* at) noexcept nogil:
    """Whether an engine can have written this record of a host."""
    return (byte_in(was, at.state) <= MASTER and byte_in(was, at.reason) < REASONS
            and byte_in(was, at.lost_reason) < REASONS
            and byte_in(was, at.master4) <= SOURCES and byte_in(was, at.master6) <= SOURCES
            and byte_in(was, at.retries) <= DOUBLINGS_MAX
            and byte_in(was, at.losses) <= DOUBLINGS_MAX
            and byte_in(was, at.vhid) and short_in(was, at.interface) < MAX_INTERFACES
            and word_in(was, at.flags) & IN_USE)


cdef str flaw_of_host(const uint8_t* was, const HostSpots* at):
    """What no engine can have written of a host that is not sound."""
    return (f"state {byte_in(was, at.state)}, "
            f"reasons {byte_in(was, at.reason)} and {byte_in(was, at.lost_reason)}, "
            f"masters {byte_in(was, at.master4)} and {byte_in(was, at.master6)}, "
            f"retries {byte_in(was, at.retries)}, losses {byte_in(was, at.losses)}, "
            f"vhid {byte_in(was, at.vhid)}, interface {short_in(was, at.interface)}, "
            f"flags {word_in(was, at.flags)}")


cdef int expect_parts(const Part* parts) except -1:
    """Check that records are of something, and in the order in which they are placed."""
    cdef uint64_t hosts = parts[<int>OF_HOST].count, which
    cdef uint32_t last, of
    cdef int part
    if hosts > MAX_VIRTUAL_HOSTS or parts[<int>OF_ABSENCE].count > ABSENCES or (
            parts[<int>OF_RECEIVER].count > RECEIVERS):
        raise ValueError("the state has more records than there can be")
    for part in (OF_SOURCE, OF_ADDRESS, OF_KEY, OF_QUEUED):
        last = 0
        for which in range(parts[part].count):
            of = part_of_number(&parts[part], which)
            if part == OF_SOURCE:
                if of % SOURCES_APART >= SOURCES:
                    raise ValueError(f"a source of place {of % SOURCES_APART}")
                of //= SOURCES_APART
            if of >= hosts or (of < last and part != OF_QUEUED):
                raise ValueError(f"a record of virtual host {of} of {hosts}, or out of order")
            last = of
    for part in (OF_INTERFACE, OF_REJECTION):
        for which in range(parts[part].count):
            of = part_of_number(&parts[part], which)
            if of >= MAX_INTERFACES:
                raise ValueError(f"interface {of}: must be below {MAX_INTERFACES}")
    return 0


cdef int expect_records(const Part* parts) except -1:
    """Check the values that are indexes or shifts."""
    cdef const uint8_t* record
    cdef const Part* part = &parts[<int>OF_REJECTION]
    cdef uint32_t at = place_of(part, &r, &r.verdict), other = place_of(part, &r, &r.family)
    cdef uint64_t which
    for which in range(part.count):
        record = part_record(part, which)
        if byte_in(record, at) >= VERDICTS or byte_in(record, other) not in (0, 4, 6):
            raise ValueError(f"rejection: verdict {byte_in(record, at)}")
    part = &parts[<int>OF_QUEUED]
    at = place_of(part, &q, &q.queue)
    for which in range(part.count):
        record = part_record(part, which)
        if byte_in(record, at) >= QUEUES:
            raise ValueError(f"queued: queue {byte_in(record, at)}")
    part = &parts[<int>OF_SOURCE]
    at = place_of(part, &s, &s.family)
    for which in range(part.count):
        record = part_record(part, which)
        if byte_in(record, at) not in (4, 6):
            raise ValueError(f"source: family {byte_in(record, at)}")
    part = &parts[<int>OF_ADDRESS]
    at, other = place_of(part, &a, &a.family), place_of(part, &a, &a.flags)
    for which in range(part.count):
        record = part_record(part, which)
        if byte_in(record, at) not in (4, 6) or byte_in(record, other) & ASKED:
            raise ValueError(
                f"address: family {byte_in(record, at)}, flags {byte_in(record, other)}")
    part = &parts[<int>OF_KEY]
    at, other = place_of(part, &k, &k.key.tail_length), place_of(part, &k, &k.key.hashed)
    for which in range(part.count):
        record = part_record(part, which)
        if byte_in(record, at) >= BLOCK or word_in(record, other) % BLOCK:
            raise ValueError(
                f"key: {byte_in(record, at)} bytes after {word_in(record, other)}")
    return 0
