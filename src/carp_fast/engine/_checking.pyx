"""What no engine can have written into a state: checked before anything of it is placed.

Indexes, shifts and counts, and the order of the records, so that whatever a state holds can do no
harm. Uses no socket and no clock.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from carp_fast.engine._absence cimport ABSENCES
from carp_fast.engine._core cimport MAX_INTERFACES, MAX_VIRTUAL_HOSTS, Rejection
from carp_fast.engine._state cimport Part, part_get, part_of_number, SOURCES_APART
from carp_fast.engine._tables cimport (
    OF_ABSENCE, OF_ADDRESS, OF_HOST, OF_INTERFACE, OF_KEY, OF_QUEUED, OF_RECEIVER, OF_REJECTION,
    OF_SOURCE, QUEUES, Queued, RECEIVERS)
from carp_fast.engine._vhid cimport (
    Address, AlternateKey, ASKED, IN_USE, MASTER, REASONS, Source, SOURCES, VirtualHost)
from carp_fast.engine._wire cimport VERDICTS

cdef enum:
    BLOCK = 64                  # of SHA-1, bytes
    DOUBLINGS_MAX = 10          # of a retry's wait; of a demotion's, fewer


cdef str flaw_of_host(const VirtualHost* was):
    """What no engine can have written, or an empty text."""
    if was.state > MASTER:
        return f"state {was.state}"
    if was.reason >= REASONS or was.lost_reason >= REASONS:
        return f"reason {max(was.reason, was.lost_reason)}"
    if was.master[0] > SOURCES or was.master[1] > SOURCES:
        return f"master {max(was.master[0], was.master[1])}"
    if was.retries > DOUBLINGS_MAX or was.losses > DOUBLINGS_MAX:
        return f"retries {was.retries}, losses {was.losses}"
    if not was.vhid or was.interface >= MAX_INTERFACES or not was.flags & IN_USE:
        return f"vhid {was.vhid}, interface {was.interface}, flags {was.flags}"
    return ""


cdef int expect_parts(const Part* parts) except -1:
    """Check that records are of something, and in the order in which they are placed."""
    cdef uint64_t hosts = parts[<int>OF_HOST].count, k
    cdef uint32_t last, of
    cdef int part
    if hosts > MAX_VIRTUAL_HOSTS or parts[<int>OF_ABSENCE].count > ABSENCES or (
            parts[<int>OF_RECEIVER].count > RECEIVERS):
        raise ValueError("the state has more records than there can be")
    for part in (OF_SOURCE, OF_ADDRESS, OF_KEY, OF_QUEUED):
        last = 0
        for k in range(parts[part].count):
            of = part_of_number(&parts[part], k)
            if part == OF_SOURCE:
                if of % SOURCES_APART >= SOURCES:
                    raise ValueError(f"a source of place {of % SOURCES_APART}")
                of //= SOURCES_APART
            if of >= hosts or (of < last and part != OF_QUEUED):
                raise ValueError(f"a record of virtual host {of} of {hosts}, or out of order")
            last = of
    for part in (OF_INTERFACE, OF_REJECTION):
        for k in range(parts[part].count):
            of = part_of_number(&parts[part], k)
            if of >= MAX_INTERFACES:
                raise ValueError(f"interface {of}: must be below {MAX_INTERFACES}")
    return 0


cdef int expect_records(const Part* parts) except -1:
    """Check the values that are indexes or shifts."""
    cdef Rejection rejection
    cdef Queued queued
    cdef Source source
    cdef Address address
    cdef AlternateKey key
    cdef uint64_t k
    for k in range(parts[<int>OF_REJECTION].count):
        memset(&rejection, 0, sizeof(rejection))
        part_get(&parts[<int>OF_REJECTION], k, &rejection)
        if rejection.verdict >= VERDICTS or rejection.family not in (0, 4, 6):
            raise ValueError(f"rejection: verdict {rejection.verdict}")
    for k in range(parts[<int>OF_QUEUED].count):
        queued.queue = 0
        part_get(&parts[<int>OF_QUEUED], k, &queued)
        if queued.queue >= QUEUES:
            raise ValueError(f"queued: queue {queued.queue}")
    for k in range(parts[<int>OF_SOURCE].count):
        memset(&source, 0, sizeof(source))
        part_get(&parts[<int>OF_SOURCE], k, &source)
        if source.family not in (4, 6):
            raise ValueError(f"source: family {source.family}")
    for k in range(parts[<int>OF_ADDRESS].count):
        memset(&address, 0, sizeof(address))
        part_get(&parts[<int>OF_ADDRESS], k, &address)
        if address.family not in (4, 6) or address.flags & ASKED:
            raise ValueError(f"address: family {address.family}, flags {address.flags}")
    for k in range(parts[<int>OF_KEY].count):
        memset(&key, 0, sizeof(key))
        part_get(&parts[<int>OF_KEY], k, &key)
        if key.key.tail_length >= BLOCK or key.key.hashed % BLOCK:
            raise ValueError(f"key: {key.key.tail_length} bytes after {key.key.hashed}")
    return 0
