"""Frames heard: the virtual host each is for, whether it is genuine and new, its effect.

The checks that need the table of hosts, in the order of the Verdict enum: vhid, destination,
digest, loop, replay, which is judged in _sources. Nothing here allocates, logs or uses a socket, a
clock or a file.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from carp_fast.engine._absence cimport absence_end
from carp_fast.engine._auth cimport Signature, TOGETHER, auth_verify, auth_verify_many
from carp_fast.engine._core cimport (
    Core, core_source, DEMOTE_HEARD, DUPLICATE_SOURCE, engine_ask,
    engine_end_duplicate, engine_may_tell, engine_tell, engine_touch, FAMILY_HEARD, FAMILY_SILENT,
    Interface, MAX_INTERFACES, OTHER_MASTER, Rejection, REJECTIONS, WRONG_DIGEST)
from carp_fast.engine._history cimport (
    counter_above, history_age_ms, history_is_ours, history_ms, history_sent_ms)
from carp_fast.engine._recorder cimport record_heard, recorder_begin
from carp_fast.engine._sources cimport source_known, source_place, source_replays
from carp_fast.engine._transitions cimport engine_event
from carp_fast.engine._vhid cimport (
    AlternateKey, BACKUP, DEMOTE_TOLD, DIALECT_OPENBSD, DUPLICATE, Event, EVENTS, INIT, MASTER,
    Output, REPLAY_OFF, SILENT_4, SILENT_6, Source, TO_ADVERTISE,
    vhid_duplicate_over, vhid_expects, vhid_foresee, vhid_has_our_mac, vhid_interval_ns,
    vhid_is_addressed,
    vhid_is_own_source, vhid_judge, vhid_master_down_ns, vhid_source, vhid_span_ms,
    vhid_virtual_mac, VirtualHost)
from carp_fast.engine._wheel cimport NOBODY
from carp_fast.engine._wire cimport (
    Advertisement, ADVERTISEMENT4_LENGTH, ADVERTISEMENT6_LENGTH, BAD_AUTH, BAD_DESTINATION,
    BAD_SOURCE, BAD_VERSION, BAD_VHID, LOOP, NOT_CARP, REPLAY, Verdict, VERDICT_OK, VRRP,
    wire_is_link_group6, wire_parse_carp, wire_parse_ip)

cdef extern from "random.h" nogil:
    uint64_t random_mixed(uint64_t x) noexcept

cdef enum:
    HOT_LINES = 4                   # lines of a virtual host that an advertisement heard touches
    WHOLE_HISTORY_LINES = 3         # ... those of a repeated counter, or of every second interval
    VHID4_AT = 35                   # in a frame whose IPv4 header has no options
    VHID6_AT = 55
    LEAP = 1024                     # the most counters that are skipped to leave a host in step
    FORESEEN = 8                    # frames whose hosts are fetched into the cache ahead

cdef struct Hearing:                # one frame, as far as it is known before its digest is computed
    Advertisement heard
    const FrameHeard* frame
    Verdict verdict                 # VERDICT_OK: the digest decides
    uint32_t slot                   # of the host, or NOBODY
    bint vrrp_like
    bint fits                       # if the digest decides: it fits the host's own key


cdef void foresee(Core* core, const FrameHeard* frame) noexcept nogil:
    """Fetch the host of `frame`, which is heard soon, into the cache.

    Tens of thousands do not fit there, and waiting for them one by one would cost the most.
    """
    cdef uint32_t slot, vhid_at = VHID4_AT
    if frame.length < ADVERTISEMENT4_LENGTH or frame.interface >= MAX_INTERFACES:
        return
    if frame.bytes[12] == 0x86 and frame.length >= ADVERTISEMENT6_LENGTH:
        vhid_at = VHID6_AT
    slot = core.index[<uint32_t>frame.interface * 256 + frame.bytes[vhid_at]] - 1
    if slot != NOBODY:
        vhid_foresee(&core.hosts[slot], HOT_LINES)
        vhid_foresee(&core.hosts[slot].history, WHOLE_HISTORY_LINES)
        vhid_foresee(core_source(core, slot, 0), 1)
        vhid_foresee(&core.wheel.at[slot], 1)


cdef inline bint takes_destination(const VirtualHost* host,
                                   const Advertisement* heard) noexcept nogil:
    cdef uint32_t i
    cdef const Output* output
    if heard.unicast:
        return vhid_is_addressed(host, heard) and lists_source(host, heard)
    # Most of them by the host alone: its outputs are in other lines.
    if heard.family == 4 and memcmp(host.destination4, heard.destination, 4) == 0:
        return True
    if (heard.family == 6 and host.group6 == heard.destination[15]
            and wire_is_link_group6(heard.destination)):
        return True
    for i in range(host.block.output_count):
        output = &host.block.outputs[i]
        if (output.family == heard.family and not output.unicast
                and memcmp(output.destination, heard.destination, 16) == 0):
            return True
    return False


cdef bint lists_source(const VirtualHost* host, const Advertisement* heard) noexcept nogil:
    cdef uint32_t i
    cdef const Output* output
    for i in range(host.block.output_count):
        output = &host.block.outputs[i]
        if (output.unicast and output.family == heard.family
                and memcmp(output.destination, heard.source, 16) == 0):
            return True
    return False


cdef bint is_unlisted(Core* core, uint16_t interface, const Advertisement* heard) noexcept nogil:
    """Whether a unicast comes from none of the peers of the hosts that it may be for.

    A TTL of 255 proves that a group's advertisement was not forwarded; for a unicast the list of
    peers takes its place. If no host has any peers, the destination is wrong instead.
    """
    cdef uint32_t slot = core.index[<uint32_t>interface * 256 + heard.vhid] - 1
    cdef bint any_peers = False
    while slot != NOBODY:
        if core.hosts[slot].block.outputs[0].unicast:
            any_peers = True
            if lists_source(&core.hosts[slot], heard):
                return False
        slot = core.hosts[slot].next_same
    return any_peers


cdef bint fits_alternate(const VirtualHost* host, const Advertisement* heard,
                         int64_t now_ns) noexcept nogil:
    """Whether the digest fits another form of the host's key, or a key that it had until lately."""
    cdef uint32_t i
    cdef const AlternateKey* alternate
    for i in range(host.block.alternate_count):
        alternate = &host.block.alternates[i]
        if (alternate.until_ns > now_ns
                and auth_verify(&alternate.key, heard.carp + 8, heard.carp + 16)):
            return True
    return False


cdef Verdict refuse(Core* core, uint16_t number, uint32_t slot, Verdict verdict,
                    const Advertisement* heard, int64_t arrived_ns) noexcept nogil:
    """Count a frame that is refused, and remember it for the list of rejections."""
    cdef Interface* interface = &core.interfaces[number]
    cdef Rejection* rejection = &interface.rejections[
        interface.rejections_count & (REJECTIONS - 1)]
    interface.rejections_count += 1
    interface.rejected[<int>verdict] += 1
    rejection.at_ns, rejection.verdict = arrived_ns, <uint8_t>verdict
    rejection.family = 0
    if heard.carp != NULL:
        rejection.family, rejection.vhid = heard.family, heard.vhid
        memcpy(rejection.source, heard.source, 16)
    if slot != NOBODY:
        core.hosts[slot].rejected[<int>verdict] += 1
    if core.recorder.records != NULL:
        record_heard(&core.recorder, slot, number, <uint8_t>verdict,
                     verdict == LOOP or verdict == REPLAY, heard, arrived_ns)
    return verdict


cdef void tell_wrong_digest(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    cdef VirtualHost* host = &core.hosts[slot]
    if host.state != INIT and engine_may_tell(&host.told_other_master_ms, now_ns):
        engine_tell(core, OTHER_MASTER if host.state == MASTER else WRONG_DIGEST, slot, 0, NULL,
                    now_ns)


cdef void hear(Core* core, const FrameHeard* frame, Hearing* hearing) noexcept nogil:
    """All checks that come before the digest, in the order of the Verdict enum; changes nothing."""
    cdef Advertisement* heard = &hearing.heard
    cdef uint32_t slot, other = NOBODY
    hearing.frame, hearing.slot, hearing.vrrp_like = frame, NOBODY, False
    hearing.verdict = NOT_CARP
    if frame.interface >= MAX_INTERFACES:
        return
    hearing.verdict = wire_parse_ip(frame.bytes, frame.length, heard)
    if (hearing.verdict == VERDICT_OK and heard.unicast
            and is_unlisted(core, frame.interface, heard)):
        hearing.verdict = BAD_SOURCE
    if hearing.verdict == VERDICT_OK:
        hearing.verdict = wire_parse_carp(heard)
    if hearing.verdict != VERDICT_OK:
        return
    hearing.vrrp_like = heard.version == 3 or heard.vrrp_length
    slot = core.index[<uint32_t>frame.interface * 256 + heard.vhid] - 1     # 0 - 1 is NOBODY
    while slot != NOBODY and not takes_destination(&core.hosts[slot], heard):
        if vhid_expects(&core.hosts[slot], heard.family):
            other = slot
        slot = core.hosts[slot].next_same
    hearing.slot = slot
    if slot == NOBODY:
        hearing.slot = other
        hearing.verdict = (VRRP if hearing.vrrp_like else BAD_VHID if other == NOBODY
                           else BAD_DESTINATION)


cdef Verdict conclude(Core* core, const Hearing* hearing) noexcept nogil:
    """Handle a frame that passed all checks before the digest or did not; its verdict, counted."""
    cdef const Advertisement* heard = &hearing.heard
    cdef int64_t arrived_ns = hearing.frame.arrived_ns
    cdef Verdict verdict = hearing.verdict
    if verdict == NOT_CARP:
        return verdict
    if verdict == VERDICT_OK:
        if not hearing.fits and not fits_alternate(&core.hosts[hearing.slot], heard, arrived_ns):
            verdict = VRRP if hearing.vrrp_like else BAD_AUTH
            if not hearing.vrrp_like:
                tell_wrong_digest(core, hearing.slot, arrived_ns)
        elif heard.version == 3:
            verdict = BAD_VERSION
        else:
            verdict = on_advertisement(core, hearing.slot, heard, arrived_ns)
    if verdict != VERDICT_OK:
        refuse(core, hearing.frame.interface, hearing.slot, verdict, heard, arrived_ns)
    return verdict


cdef void compute_fits(const Core* core, Hearing* hearings, uint32_t count) noexcept nogil:
    """Compute the digests, at most TOGETHER, of the frames that passed all checks before them."""
    cdef Signature signatures[TOGETHER]
    cdef Hearing* passed[TOGETHER]
    cdef bint fits[TOGETHER]
    cdef uint32_t i, some = 0
    for i in range(count):
        if hearings[i].verdict == VERDICT_OK:
            passed[some] = &hearings[i]
            signatures[some].key = &core.hosts[hearings[i].slot].key
            signatures[some].counter = hearings[i].heard.carp + 8
            signatures[some].digest = <uint8_t*>hearings[i].heard.carp + 16
            some += 1
    auth_verify_many(signatures, some, fits)
    for i in range(some):
        passed[i].fits = fits[i]


cdef Verdict engine_receive(Core* core, const FrameHeard* frame) noexcept nogil:
    """Take in one frame; returns its verdict, counted."""
    cdef Hearing hearing
    hear(core, frame, &hearing)
    compute_fits(core, &hearing, 1)
    return conclude(core, &hearing)


cdef uint32_t engine_receive_many(Core* core, FrameHeard* frames, uint32_t count,
                                  Onlooker onlooker, void* where) noexcept nogil:
    """Take in frames in order, as engine_receive does, and set their verdicts; how many were OK.

    Computes several digests together: they are most of the work, and no frame changes another's
    host, its key or any other input of `hear`. onlooker: called for each frame, or NULL.
    """
    cdef Hearing hearings[TOGETHER]
    cdef uint32_t i, some, begin = 0, good = 0
    for i in range(min(count, <uint32_t>FORESEEN)):
        foresee(core, &frames[i])
    while begin < count:
        some = min(count - begin, <uint32_t>TOGETHER)
        for i in range(begin + FORESEEN, min(begin + FORESEEN + some, count)):
            foresee(core, &frames[i])
        for i in range(some):
            hear(core, &frames[begin + i], &hearings[i])
        compute_fits(core, hearings, some)
        for i in range(some):
            if onlooker != NULL:
                onlooker(where, begin + i, False)
            frames[begin + i].verdict = <uint8_t>conclude(core, &hearings[i])
            good += frames[begin + i].verdict == VERDICT_OK
            if onlooker != NULL:
                onlooker(where, begin + i, True)
        begin += some
    return good


cdef void note_family(Core* core, uint32_t slot, uint8_t family, int64_t now_ns) noexcept nogil:
    """Heard over `family`: report it if the other family, which should be heard, is silent.

    A take-over needs silence of all families, so that of one is only reported and counted.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef int this = family == 6
    cdef uint32_t silent = SILENT_6 if this else SILENT_4
    cdef uint32_t other_silent = SILENT_4 if this else SILENT_6
    cdef int64_t since_ns = host.heard_ns[1 - this]
    host.heard_ns[this] = max(host.heard_ns[this], now_ns)
    if host.flags & silent:
        host.flags &= ~silent
        engine_tell(core, FAMILY_HEARD, slot, family, NULL, now_ns)
    if host.state != BACKUP or host.flags & other_silent or not vhid_expects(host, 10 - family):
        return
    since_ns = max(since_ns, host.since_ns)
    if (now_ns - since_ns > vhid_master_down_ns(host)
            and now_ns - absence_end(&core.absences, vhid_interval_ns(host))
            > vhid_master_down_ns(host)):
        host.flags |= other_silent
        host.family_silences += 1
        core.figures.interfaces[host.interface].family_silences += 1
        engine_tell(core, FAMILY_SILENT, slot, 10 - family, NULL, now_ns)


cdef inline bint sent_lately(const VirtualHost* host, uint64_t counter,
                             int64_t arrived_ns) noexcept nogil:
    """Whether an advertisement of ours had this counter within the last interval."""
    cdef int64_t ago_ms = history_sent_ms(&host.history, counter, history_ms(arrived_ns))
    return ago_ms >= 0 and (ago_ms - 1) * 1000000 <= vhid_interval_ns(host)     # to the ms


cdef inline bint is_ours_late(const VirtualHost* host, const Advertisement* heard,
                              int64_t arrived_ns) noexcept nogil:
    """Whether it is one that we sent before the last interval, from a MAC that only we have."""
    return (memcmp(heard.source_mac, host.mac, 6) == 0
            and not vhid_virtual_mac(host)
            and (history_is_ours(&host.history, host.first_sent, heard.counter)
                 or history_age_ms(&host.history, heard.counter, history_ms(arrived_ns),
                                   vhid_span_ms(host)) >= 0))


cdef void on_duplicate(Core* core, uint32_t slot, const Advertisement* heard,
                       int64_t arrived_ns) noexcept nogil:
    """Another host advertises from our source: report it once a minute while it does."""
    cdef VirtualHost* host = &core.hosts[slot]
    host.duplicates += 1
    core.figures.interfaces[host.interface].duplicates += 1
    host.flags |= DUPLICATE
    host.duplicate_ms = history_ms(arrived_ns)
    memcpy(host.duplicate_mac, heard.source_mac, 6)
    if engine_may_tell(&host.told_duplicate_ms, arrived_ns):
        engine_tell(core, DUPLICATE_SOURCE, slot, 0, heard.source_mac, arrived_ns)


cdef Verdict on_echo(Core* core, uint32_t slot, const Advertisement* heard,
                     int64_t arrived_ns) noexcept nogil:
    """Handle a frame from our source with a counter of our last interval and another MAC.

    Either something on the way changes MACs, or a host with our source is in step with us: both
    adopt each other's counters at the same moment. The first case changes nothing here; the
    second ends when our counter leaps ahead by a number that the other host does not know.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint64_t theirs = 0
    if core.recorder.records != NULL:
        record_heard(&core.recorder, slot, host.interface, VERDICT_OK, True, heard, arrived_ns)
    on_duplicate(core, slot, heard, arrived_ns)
    core.interfaces[host.interface].heard += 1
    host.heard += 1
    memcpy(&theirs, heard.source_mac, 6)                # clones of a machine may have the same seed
    host.counter += random_mixed(
        (core.seed + slot + theirs) * 0x9e3779b97f4a7c15U + <uint64_t>arrived_ns) % LEAP
    return VERDICT_OK


cdef void answer_stranger(Core* core, uint32_t slot, int64_t arrived_ns) noexcept nogil:
    """Let a MASTER advertise immediately, once an interval at most, to a source it refuses.

    A host that was apart for long has only counters that we know. It adopts the counter it hears
    now, so its next one is new: the split ends as fast as if we had accepted the first.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    if host.state == MASTER and arrived_ns - host.answered_ns >= vhid_interval_ns(host):
        host.answered_ns = arrived_ns
        engine_ask(core, &core.advertise, slot, TO_ADVERTISE)


cdef Verdict on_advertisement(Core* core, uint32_t slot, const Advertisement* heard,
                              int64_t arrived_ns) noexcept nogil:
    """Handle a genuine advertisement: a loop of our own, one sent before, or an event."""
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Source unknown
    cdef Source* source
    cdef int family = heard.family == 6
    cdef uint32_t place
    cdef Event event
    cdef bint own = vhid_is_own_source(host, heard)
    cdef bint lately = own and sent_lately(host, heard.counter, arrived_ns)
    if lately and vhid_has_our_mac(host, heard):
        return LOOP
    if own and is_ours_late(host, heard, arrived_ns):
        return LOOP if host.configured.replay == REPLAY_OFF else REPLAY
    recorder_begin(&core.recorder)
    engine_touch(core, slot, arrived_ns)
    if lately:
        return on_echo(core, slot, heard, arrived_ns)
    place = source_known(host, heard)
    if place == NOBODY:
        memset(&unknown, 0, sizeof(Source))
        unknown.family = heard.family
        memcpy(unknown.address, heard.source, 16)
        if own:                                         # what is refused of it counts, too
            place = source_place(host, &unknown, arrived_ns)
    source = &unknown if place == NOBODY else vhid_source(host, place)
    if source_replays(core, slot, source, heard, own, arrived_ns):
        if not own and not source.genuine:
            answer_stranger(core, slot, arrived_ns)
        return REPLAY
    if place == NOBODY:
        place = source_place(host, &unknown, arrived_ns)
        source = vhid_source(host, place)
    if core.recorder.records != NULL:
        record_heard(&core.recorder, slot, host.interface, VERDICT_OK, True, heard, arrived_ns)
    if own:
        on_duplicate(core, slot, heard, arrived_ns)
    elif host.flags & DUPLICATE and vhid_duplicate_over(host, arrived_ns):
        engine_end_duplicate(core, slot, arrived_ns)
    core.interfaces[host.interface].heard += 1
    host.heard += 1
    if counter_above(heard.counter, host.counter):
        host.counter = heard.counter                # ours continue above any that was heard
    note_family(core, slot, heard.family, arrived_ns)
    event = vhid_judge(host, heard, own, arrived_ns)
    memcpy(source.mac, heard.source_mac, 6)
    source.advbase, source.advskew = heard.advbase, heard.advskew
    source.demote, source.heard_ns = heard.demote, max(source.heard_ns, arrived_ns)
    if host.master[family] == 0 or event != EVENTS and arrived_ns >= host.heard_ns[family]:
        host.master[family] = place + 1
    if heard.demote and host.configured.dialect != DIALECT_OPENBSD and not host.flags & DEMOTE_TOLD:
        host.flags |= DEMOTE_TOLD
        engine_tell(core, DEMOTE_HEARD, slot, heard.demote, NULL, arrived_ns)
    if event != EVENTS:
        engine_event(core, slot, event, 0, arrived_ns)
    return VERDICT_OK
