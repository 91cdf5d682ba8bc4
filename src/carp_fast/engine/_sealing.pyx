"""Advertisements that are due: the next host, and its frames, complete and signed.

Digests of several frames are computed together, so the frames of a batch are complete once
sealing_end() has been called. advertisement_sent() of _actions.pyx takes the outcome.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._auth cimport auth_sign_many, TOGETHER
from carp_fast.engine._core cimport Core, Queue, queue_pop
from carp_fast.engine._vhid cimport (
    MASTER, Output, TO_ADVERTISE, TO_ADVERTISE_LAST, TO_RESIGN, vhid_advskew, vhid_demote,
    VirtualHost)
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport CARP_LENGTH, wire_build_carp, wire_checksum

cdef enum:
    COUNTER_AT = 8              # in a CARP header
    DIGEST_AT = 16


cdef uint64_t next_counter(VirtualHost* host) noexcept nogil:
    """The counter of the next advertisement; advertisement_sent() stores it."""
    host.counter += 1
    return host.counter


cdef void sealing_end(Sealing* sealing) noexcept nogil:
    """Sign what has been begun: the digests together, then the checksums."""
    cdef uint32_t i
    cdef uint8_t* carp
    cdef uint16_t sum
    auth_sign_many(sealing.signatures, sealing.count)
    for i in range(sealing.count):
        carp = sealing.signatures[i].digest - DIGEST_AT
        sum = wire_checksum(carp, CARP_LENGTH)
        carp[6] = sum >> 8
        carp[7] = sum & 0xff
    sealing.count = 0


cdef void begin(Sealing* sealing, VirtualHost* host, bint resigning) noexcept nogil:
    """Fill in the frame of every output: a new counter each; all but digest and checksum."""
    cdef uint32_t i
    cdef Output* output
    cdef uint8_t* carp
    for i in range(host.block.output_count):
        if sealing.count == TOGETHER:
            sealing_end(sealing)
        output = &host.block.outputs[i]
        carp = output.frame + output.carp_at
        wire_build_carp(carp, host.vhid, 255 if resigning else vhid_advskew(host),
                        vhid_demote(host), 255 if resigning else host.configured.advbase,
                        next_counter(host))
        sealing.signatures[sealing.count].key = &host.key
        sealing.signatures[sealing.count].counter = carp + COUNTER_AT
        sealing.signatures[sealing.count].digest = carp + DIGEST_AT
        sealing.count += 1


cdef uint32_t next_advertisement(Core* core, Sealing* sealing, uint32_t room) noexcept nogil:
    """The next host that has to advertise; sealing_end() completes its outputs' frames.

    NOBODY: there is none, or it has more than `room` frames and goes on waiting. A host that
    stepped down while it waited in the queue sends nothing, unless it owes a last advertisement or
    a resignation.
    """
    cdef uint32_t slot
    cdef VirtualHost* host
    cdef Queue* queue
    cdef uint8_t pending
    while True:
        queue = &core.advertise_first
        if queue.head == queue.tail:
            queue = &core.advertise
        if queue.head == queue.tail:
            return NOBODY
        host = &core.hosts[queue.slots[queue.head]]
        if host.block != NULL and host.block.output_count > room:
            return NOBODY
        slot = queue_pop(queue)
        pending = host.pending
        host.pending &= ~<uint32_t>(TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN)
        if host.block == NULL or not pending & (TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN):
            continue                            # released while it waited here
        if pending & TO_RESIGN and host.state != MASTER:
            begin(sealing, host, True)
            return slot
        if pending & TO_ADVERTISE_LAST or host.state == MASTER:
            begin(sealing, host, False)
            return slot
