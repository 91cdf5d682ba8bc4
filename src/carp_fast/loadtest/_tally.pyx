"""Counts of received frames: by verdict and by flow, and how long frames took to arrive.

A flow has source, destination, vhid and VLAN in common, as those of a sender (_mix.pyx).

The inputs are frames and their times of arrival. A frame is judged as by a host of the
configuration, up to its digest; verdicts that depend on earlier frames (loop, replay) do not occur:
the counters of the flow show them. Uses no socket, clock or file.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from carp_fast.engine._auth cimport KEY_LENGTH, auth_prepare, auth_verify
from carp_fast.loadtest._histogram cimport histogram_add, histogram_percentile
from carp_fast.engine._wheel cimport power_of_two
from carp_fast.engine._wire cimport (
    Advertisement, ARP_FRAME_LENGTH, BAD_AUTH, BAD_DESTINATION, BAD_SOURCE, BAD_VERSION, BAD_VHID,
    ETHERNET_LENGTH, IPV6_LENGTH, NOT_CARP, Verdict, VERDICT_OK, VRRP, wire_parse_carp,
    wire_parse_ip, wire_stamp)

from carp_fast.engine._wire import VERDICT_WORDS

cdef enum:
    JUMP_MAX = 1 << 24              # counters that may be missing in a row: 16 s of a million a s
    RESTART_AFTER = 8               # strays in a row, each a little above the last
    PROTOCOL_ICMPV6 = 58
    NEIGHBOUR_ADVERTISEMENT = 136
    SOLICITED = 0x40

FLOW_LIMIT = FLOWS_MAX
OTHER_LIMIT = OTHERS_MAX
OTHER_WORDS = ("bad_length", "vrrp", "arp", "na")
COUNTER_WINDOW = WINDOW


cdef inline uint64_t counter_of(const uint8_t* carp) noexcept nogil:
    cdef uint64_t counter = 0
    cdef int i
    for i in range(8):
        counter = counter << 8 | carp[8 + i]
    return counter


# ------------------------------------------------------------------------------ counters of a flow

cdef inline bint is_seen(const Flow* flow, uint64_t counter) noexcept nogil:
    return flow.seen[(counter & (WINDOW - 1)) >> 6] >> (counter & 63) & 1


cdef inline void mark_seen(Flow* flow, uint64_t counter) noexcept nogil:
    flow.seen[(counter & (WINDOW - 1)) >> 6] |= <uint64_t>1 << (counter & 63)


cdef inline void forget_seen(Flow* flow, uint64_t counter) noexcept nogil:
    flow.seen[(counter & (WINDOW - 1)) >> 6] &= ~(<uint64_t>1 << (counter & 63))


cdef inline uint64_t lost_since(const Flow* flow) noexcept nogil:
    """Counters between the lowest and the highest that did not arrive, since the last restart."""
    return flow.highest - flow.lowest + 1 - flow.placed


cdef void flow_begin(Flow* flow, uint64_t counter) noexcept nogil:
    """Start a flow with its first counter, or its first after a restart."""
    memset(flow.seen, 0, sizeof(flow.seen))
    flow.lowest = flow.highest = counter
    flow.placed = 1
    flow.strays_in_a_row = 0
    mark_seen(flow, counter)


cdef void flow_stray(Flow* flow, uint64_t counter) noexcept nogil:
    """Count a counter that is too far from the others to belong to them.

    A damaged one stays alone. After a restart of the sender there are several in a row that ascend:
    the flow continues from those.
    """
    cdef uint64_t step = counter - flow.stray
    flow.strays += 1
    if flow.strays_in_a_row and (step == 0 or step > WINDOW):
        flow.strays_in_a_row = 0
    flow.strays_in_a_row += 1
    flow.stray = counter
    if flow.strays_in_a_row == RESTART_AFTER:
        flow.lost_before += lost_since(flow)
        flow.restarts += 1
        flow.strays -= 1
        flow_begin(flow, counter)


cdef void flow_count(Flow* flow, uint64_t counter) noexcept nogil:
    """Count one frame with this counter. Counters are modulo 2^64: after the last comes 0."""
    cdef uint64_t ahead = counter - flow.highest, behind = flow.highest - counter, each
    flow.received += 1
    if ahead - 1 < <uint64_t>JUMP_MAX:              # 1 to JUMP_MAX
        if ahead >= WINDOW:
            memset(flow.seen, 0, sizeof(flow.seen))
        else:
            each = flow.highest + 1
            while each != counter:
                forget_seen(flow, each)
                each += 1
        flow.highest = counter
        forget_seen(flow, counter)
    elif behind >= WINDOW:
        flow_stray(flow, counter)
        return
    elif is_seen(flow, counter):
        flow.duplicates += 1
        flow.strays_in_a_row = 0
        return
    else:
        flow.reordered += 1
        if <int64_t>(counter - flow.lowest) < 0:
            flow.lowest = counter
    mark_seen(flow, counter)
    flow.placed += 1
    flow.strays_in_a_row = 0


# ------------------------------------------------------------------------------------- the verdict

cdef Verdict judge(Tally tally, const Advertisement* heard) noexcept nogil:
    """The verdict of the configuration's hosts on a well-formed frame: see engine_receive."""
    cdef uint32_t at = tally.by_vhid[heard.vhid]
    cdef bint vrrp_like = heard.version == 3 or heard.vrrp_length
    cdef bint any_host = False, any_peer = False, taken = False
    cdef const Signer* signer
    cdef const uint8_t* address
    while at:
        signer = &tally.signers[at - 1]
        at = signer.next
        any_peer = any_peer or signer.peer
        any_host = any_host or signer.family == heard.family
        if signer.family != heard.family or signer.peer != heard.unicast:
            continue
        address = <const uint8_t*>heard.destination
        if signer.peer:
            address = <const uint8_t*>heard.source
        if memcmp(signer.address, address, 16):
            continue
        taken = True
        if auth_verify(&signer.key, heard.carp + 8, heard.carp + 16):
            return BAD_VERSION if heard.version == 3 else VERDICT_OK
    if heard.unicast and any_peer and not taken:
        return BAD_SOURCE
    if vrrp_like:
        return VRRP
    return BAD_AUTH if taken else BAD_DESTINATION if any_host else BAD_VHID


# --------------------------------------------------------------------------- the table of flows

cdef inline uint64_t mixed(uint64_t before, const uint8_t* data) noexcept nogil:
    """A hash of eight more bytes."""
    cdef uint64_t value
    memcpy(&value, data, 8)
    before = (before ^ value) * <uint64_t>0xd6e8feb86659fd93
    return before ^ before >> 32


cdef inline uint32_t place_of(const Advertisement* heard, uint16_t vlan,
                              uint32_t mask) noexcept nogil:
    cdef uint64_t value = <uint64_t>heard.vhid << 16 | vlan
    value = mixed(mixed(value, heard.source), heard.source + 8)
    value = mixed(mixed(value, heard.destination), heard.destination + 8)
    return <uint32_t>(value * <uint64_t>0xd6e8feb86659fd93 >> 32) & mask


cdef Flow* flow_of(Tally tally, const Advertisement* heard, uint16_t vlan, uint64_t counter,
                   bint* is_new) noexcept nogil:
    """The flow of an advertisement; NULL: it is new, and the table is full."""
    cdef uint32_t place = place_of(heard, vlan, tally.index_mask)
    cdef Flow* flow
    is_new[0] = False
    while tally.index[place]:
        flow = &tally.flows[tally.index[place] - 1]
        if (flow.vhid == heard.vhid and flow.family == heard.family and flow.vlan == vlan
                and memcmp(flow.source, heard.source, 16) == 0
                and memcmp(flow.destination, heard.destination, 16) == 0):
            return flow
        place = (place + 1) & tally.index_mask
    if tally.flow_count == tally.flows_max:
        return NULL
    flow = &tally.flows[tally.flow_count]
    tally.flow_count += 1
    tally.index[place] = tally.flow_count
    flow.vhid, flow.family, flow.vlan = heard.vhid, heard.family, vlan
    memcpy(flow.source, heard.source, 16)
    memcpy(flow.destination, heard.destination, 16)
    flow.received = 1
    flow_begin(flow, counter)
    is_new[0] = True
    return flow


# ------------------------------------------------------------------ frames without a counter

cdef bint is_like(const Other* a, const Other* b) noexcept nogil:
    return (a.kind == b.kind and a.vhid == b.vhid and a.vlan == b.vlan and a.family == b.family
            and memcmp(a.source, b.source, 16) == 0
            and memcmp(a.destination, b.destination, 16) == 0)


cdef void count_like(Tally tally, const Other* heard) noexcept nogil:
    """Count a frame in the row of those that it has everything in common with."""
    cdef uint64_t value = <uint64_t>heard.kind << 24 | <uint64_t>heard.vhid << 16 | heard.vlan
    cdef uint32_t place
    cdef Other* row
    value = mixed(mixed(value, heard.source), heard.source + 8)
    value = mixed(mixed(value, heard.destination), heard.destination + 8)
    place = <uint32_t>(value >> 32 ^ value) & tally.others_mask
    while tally.others_index[place]:
        row = &tally.others[tally.others_index[place] - 1]
        if is_like(row, heard):
            row.received += 1
            return
        place = (place + 1) & tally.others_mask
    if tally.other_count == OTHERS_MAX:
        tally.totals.left_out += 1
        return
    row = &tally.others[tally.other_count]
    row[0] = heard[0]
    row.received = 1
    tally.other_count += 1
    tally.others_index[place] = tally.other_count


cdef void count_uncounted(Tally tally, const uint8_t* frame, uint32_t kept, uint16_t vlan,
                          OtherKind kind) noexcept nogil:
    """Count a frame of protocol 112 that has no counter, as far as its headers are there."""
    cdef Other heard
    cdef uint32_t ip_end
    memset(&heard, 0, sizeof(heard))
    heard.kind, heard.vlan = kind, vlan
    if frame[12] == 0x08:
        heard.family = 4
        ip_end = ETHERNET_LENGTH + (frame[ETHERNET_LENGTH] & 15) * 4
        memcpy(heard.source, frame + ETHERNET_LENGTH + 12, 4)
        memcpy(heard.destination, frame + ETHERNET_LENGTH + 16, 4)
    else:
        heard.family = 6
        ip_end = ETHERNET_LENGTH + IPV6_LENGTH
        if kept >= ip_end:
            memcpy(heard.source, frame + ETHERNET_LENGTH + 8, 16)
            memcpy(heard.destination, frame + ETHERNET_LENGTH + 24, 16)
    if kept > ip_end + 1:
        heard.vhid = frame[ip_end + 1]
    count_like(tally, &heard)


cdef void count_announcement(Tally tally, const uint8_t* frame, uint16_t vlan, OtherKind kind,
                             const uint8_t* address) noexcept nogil:
    cdef Other heard
    memset(&heard, 0, sizeof(heard))
    heard.kind, heard.vlan = kind, vlan
    heard.family = 4 if kind == OTHER_ARP else 6
    memcpy(heard.source, frame + 6, 6)
    memcpy(heard.destination, address, 4 if kind == OTHER_ARP else 16)
    count_like(tally, &heard)


cdef void count_other(Tally tally, const uint8_t* frame, uint32_t length,
                      uint16_t vlan) noexcept nogil:
    """Count a frame of another protocol: an announcement of an address, or anything else."""
    cdef const uint8_t* body = frame + ETHERNET_LENGTH
    if (length >= ARP_FRAME_LENGTH and frame[12] == 0x08 and frame[13] == 0x06
            and memcmp(body + 14, body + 24, 4) == 0):
        tally.totals.gratuitous_arp += 1
        count_announcement(tally, frame, vlan, OTHER_ARP, body + 14)
    elif (length >= ETHERNET_LENGTH + IPV6_LENGTH + 24 and frame[12] == 0x86
            and frame[13] == 0xdd and body[6] == PROTOCOL_ICMPV6
            and body[IPV6_LENGTH] == NEIGHBOUR_ADVERTISEMENT
            and not body[IPV6_LENGTH + 4] & SOLICITED):
        tally.totals.unsolicited_na += 1
        count_announcement(tally, frame, vlan, OTHER_NA, body + IPV6_LENGTH + 8)
    else:
        tally.totals.other += 1


cdef int add_signer(Tally tally, uint32_t number, uint8_t vhid, bytes passphrase, bytes message,
                    bytes address, bint peer) except -1:
    cdef Signer* signer = &tally.signers[number]
    if not 1 <= len(passphrase) <= KEY_LENGTH or len(address) not in (4, 16):
        raise ValueError("a signer needs a passphrase of 1 to 20 bytes and an address of 4 or 16")
    cdef bytes secret = passphrase.ljust(KEY_LENGTH, b"\0")
    auth_prepare(&signer.key, secret, message, <uint32_t>len(message))
    memcpy(signer.address, <const char*>address, len(address))
    signer.family, signer.peer = 4 if len(address) == 4 else 6, peer
    signer.next = tally.by_vhid[vhid]
    tally.by_vhid[vhid] = number + 1
    return 0


cdef dict sums_of(Tally tally):
    cdef uint64_t received = 0, lost = 0, duplicates = 0, reordered = 0, strays = 0
    cdef uint64_t restarts = 0
    cdef uint32_t i
    cdef Flow* flow
    for i in range(tally.flow_count):
        flow = &tally.flows[i]
        received += flow.received
        lost += flow.lost_before + lost_since(flow)
        duplicates += flow.duplicates
        reordered += flow.reordered
        strays += flow.strays
        restarts += flow.restarts
    return {"received": received, "lost": lost, "duplicates": duplicates,
            "reordered": reordered, "strays": strays, "restarts": restarts}


cdef class Tally:
    """Counts of received frames; one frame at a time, from one thread at a time.

    signers: (vhid, passphrase, message, address, peer) for each form of a valid advertisement: the
    input of its digest before the counter, and the 4 or 16 bytes of the group that it is sent to,
    or of the peer that sends it. Without signers digests are not judged. flows_max: flows counted
    separately; frames of further ones count as `left_out`. vlan: None counts frames without a VLAN,
    0 all, 1 to 4094 those of one; others are `skipped`.
    """

    def __cinit__(self, signers=(), uint32_t flows_max=FLOWS_MAX, vlan=None):
        cdef uint32_t places
        if not 1 <= flows_max <= FLOWS_MAX:
            raise ValueError(f"flows_max = {flows_max}: 1 to {FLOWS_MAX}")
        places = power_of_two(2 * flows_max)
        self.flows_max, self.index_mask = flows_max, places - 1
        self.signer_count = len(signers)
        self.vlan = NO_VLAN if vlan is None else vlan or ANY_VLAN
        self.flows = <Flow*>calloc(flows_max, sizeof(Flow))
        self.index = <uint32_t*>calloc(places, sizeof(uint32_t))
        self.signers = <Signer*>calloc(self.signer_count + 1, sizeof(Signer))
        places = power_of_two(2 * OTHERS_MAX)
        self.others_mask = places - 1
        self.others = <Other*>calloc(OTHERS_MAX, sizeof(Other))
        self.others_index = <uint32_t*>calloc(places, sizeof(uint32_t))
        if (self.flows == NULL or self.index == NULL or self.signers == NULL
                or self.others == NULL or self.others_index == NULL):
            raise MemoryError("tally")
        memset(self.by_vhid, 0, sizeof(self.by_vhid))
        memset(&self.totals, 0, sizeof(self.totals))
        memset(&self.latency, 0, sizeof(self.latency))
        for number, (vhid, passphrase, message, address, peer) in enumerate(signers):
            add_signer(self, number, vhid, passphrase, message, address, peer)

    def __dealloc__(self):
        free(self.flows)
        free(self.index)
        free(self.signers)
        free(self.others)
        free(self.others_index)

    cdef void count(self, const uint8_t* frame, uint32_t length, uint32_t kept, uint16_t vlan,
                    int64_t at_ns) noexcept nogil:
        """Count a frame of `length` bytes, arrived at `at_ns`; `frame` has the first `kept`.

        vlan: that of the tag that it had; NO_VLAN: it had none, or a mere priority.
        """
        cdef Advertisement heard
        cdef Totals* totals = &self.totals
        cdef Flow* flow
        cdef uint64_t counter
        cdef int64_t sent_at_ns
        cdef bint is_new
        cdef Verdict verdict
        if self.vlan != ANY_VLAN and self.vlan != vlan:
            totals.skipped[vlan & (VLANS - 1)] += 1
            return
        verdict = wire_parse_ip(frame, length, &heard)
        if not totals.frames:
            totals.first_at_ns = at_ns
        totals.last_at_ns = at_ns
        totals.frames += 1
        if verdict == NOT_CARP:
            count_other(self, frame, kept, vlan)
            return
        if verdict == VERDICT_OK:
            verdict = wire_parse_carp(&heard)
        if verdict == VERDICT_OK and self.signer_count:
            verdict = judge(self, &heard)
        totals.verdicts[<int>verdict] += 1
        if heard.carp == NULL or verdict == VRRP:
            count_uncounted(self, frame, kept, vlan,
                            OTHER_VRRP if verdict == VRRP else OTHER_SHORT)
            return
        counter = counter_of(heard.carp)
        flow = flow_of(self, &heard, vlan, counter, &is_new)
        if flow == NULL:
            totals.left_out += 1
        else:
            if is_new:
                flow.first_at_ns = at_ns
            else:
                flow_count(flow, counter)
            flow.last_at_ns = at_ns
        sent_at_ns = wire_stamp(&heard, frame, kept)
        if sent_at_ns > at_ns:
            totals.before_sent += 1
        elif sent_at_ns > 0:
            histogram_add(&self.latency, at_ns - sent_at_ns)

    def receive(self, bytes frame, int64_t at_ns=0, uint16_t vlan=NO_VLAN) -> None:
        """Count one whole frame without its tag that arrived at `at_ns`, for tests and tools."""
        self.count(frame, <uint32_t>len(frame), <uint32_t>len(frame), vlan, at_ns)

    @property
    def frames(self) -> int:
        """How many frames were counted; may be called while another thread counts."""
        return self.totals.frames

    def facts(self) -> dict:
        """Everything except the flows, as plain values; times in ns.

        verdicts: {word: frames}, those that are not 0; frames, gratuitous_arp, unsolicited_na,
        other, left_out, before_sent; received, lost, duplicates, reordered, strays, restarts:
        sums over the flows, with their number in `flows`; first_at_ns, last_at_ns: arrivals,
        CLOCK_REALTIME; latency: None, or {frames, p50_ns, p99_ns, max_ns} of stamped frames;
        skipped: {vlan: frames} of VLANs that are not counted, 0: without one.
        """
        cdef Totals* totals = &self.totals
        verdicts = {VERDICT_WORDS[i]: totals.verdicts[i] for i in range(len(VERDICT_WORDS))
                    if totals.verdicts[<int>i]}
        facts = {"frames": totals.frames, "verdicts": verdicts,
                 "gratuitous_arp": totals.gratuitous_arp, "unsolicited_na": totals.unsolicited_na,
                 "other": totals.other, "left_out": totals.left_out,
                 "before_sent": totals.before_sent, "flows": self.flow_count,
                 "first_at_ns": totals.first_at_ns, "last_at_ns": totals.last_at_ns}
        facts.update(sums_of(self))
        facts["skipped"] = {vlan: totals.skipped[vlan] for vlan in range(VLANS)
                            if totals.skipped[<int>vlan]}
        facts["latency"] = None if not self.latency.total else {
            "frames": self.latency.total,
            "p50_ns": histogram_percentile(&self.latency, 0.5),
            "p99_ns": histogram_percentile(&self.latency, 0.99),
            "max_ns": self.latency.max_ns}
        return facts

    def other_list(self) -> list:
        """(kind, source, destination, vhid, vlan, received) of frames without counters.

        kind: a word of OTHER_WORDS; of announcements source is the MAC of the sender, destination
        the address announced, and vhid None; vlan: None without a tag. In the order in which they
        were first heard.
        """
        cdef list found = []
        cdef uint32_t i
        cdef Other* row
        for i in range(self.other_count):
            row = &self.others[i]
            size = 4 if row.family == 4 else 16
            announced = row.kind == OTHER_ARP or row.kind == OTHER_NA
            found.append((OTHER_WORDS[row.kind],
                          (<const char*>row.source)[:6 if announced else size],
                          (<const char*>row.destination)[:size],
                          None if announced else row.vhid, row.vlan or None, row.received))
        return found

    def flow_list(self) -> list:
        """A tuple for each flow, in the order in which they were first heard.

        (source, vhid, destination, vlan, first, last, received, lost, duplicates, reordered,
        strays, restarts, first_at_ns, last_at_ns): source and destination of 4 or 16 bytes; vlan:
        None without a tag; first and last: the lowest and the highest counter since the last
        restart; arrivals as in `facts`.
        """
        cdef list flows = []
        cdef uint32_t i
        cdef Flow* flow
        for i in range(self.flow_count):
            flow = &self.flows[i]
            size = 4 if flow.family == 4 else 16
            flows.append(((<const char*>flow.source)[:size], flow.vhid,
                          (<const char*>flow.destination)[:size], flow.vlan or None, flow.lowest,
                          flow.highest, flow.received, flow.lost_before + lost_since(flow),
                          flow.duplicates, flow.reordered, flow.strays, flow.restarts,
                          flow.first_at_ns, flow.last_at_ns))
        return flows
