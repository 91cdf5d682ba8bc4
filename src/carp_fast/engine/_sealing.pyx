"""Advertisements that are due: the next host, and its frames, complete and signed.

advertisement_sent() of _actions.pyx takes the outcome.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._auth cimport auth_sign
from carp_fast.engine._core cimport Core, queue_pop
from carp_fast.engine._vhid cimport (
    MASTER, Output, TO_ADVERTISE, TO_ADVERTISE_LAST, TO_RESIGN, vhid_advskew, vhid_demote,
    VirtualHost)
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport CARP_LENGTH, wire_build_carp, wire_checksum


cdef uint64_t next_counter(VirtualHost* host) noexcept nogil:
    """The counter of the next advertisement; advertisement_sent() stores it."""
    host.counter += 1
    return host.counter


cdef void seal(VirtualHost* host, bint resigning) noexcept nogil:
    """Complete the frame of every output: a new counter each, digest, checksum."""
    cdef uint32_t i
    cdef Output* output
    cdef uint8_t* carp
    cdef uint16_t sum
    for i in range(host.block.output_count):
        output = &host.block.outputs[i]
        carp = output.frame + output.carp_at
        wire_build_carp(carp, host.vhid, 255 if resigning else vhid_advskew(host),
                        vhid_demote(host), 255 if resigning else host.configured.advbase,
                        next_counter(host))
        auth_sign(&host.key, carp + 8, carp + 16)
        sum = wire_checksum(carp, CARP_LENGTH)
        carp[6] = sum >> 8
        carp[7] = sum & 0xff


cdef uint32_t next_advertisement(Core* core) noexcept nogil:
    """The next host that has to advertise, its outputs' frames sealed, or NOBODY.

    A host that stepped down while it waited in the queue sends nothing, unless it owes a last
    advertisement or a resignation.
    """
    cdef uint32_t slot
    cdef VirtualHost* host
    cdef uint8_t pending
    while True:
        slot = queue_pop(&core.advertise_first)
        if slot == NOBODY:
            slot = queue_pop(&core.advertise)
        if slot == NOBODY:
            return NOBODY
        host = &core.hosts[slot]
        pending = host.pending
        host.pending &= ~<uint32_t>(TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN)
        if host.block == NULL or not pending & (TO_ADVERTISE | TO_ADVERTISE_LAST | TO_RESIGN):
            continue                            # released while it waited here
        if pending & TO_RESIGN and host.state != MASTER:
            seal(host, True)
            return slot
        if pending & TO_ADVERTISE_LAST or host.state == MASTER:
            seal(host, False)
            return slot
