"""Frames of a load test: advertisements of virtual hosts, valid and invalid, announcements.

Made with the builders of _wire and signed with prepared keys, one by one, each with the next
counter of its flow: the frames that have source, destination, vhid and VLAN in common, which is
all that a receiver tells flows apart by. Uses no socket, clock or file.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove, memset

from carp_fast.engine._auth cimport (
    DIGEST_LENGTH, KEY_LENGTH, Signature, TOGETHER, auth_prepare, auth_sign_many)
from carp_fast.loadtest._frames cimport FrameSource, Made, NO_FLOW
from carp_fast.loadtest._walk cimport (
    AT_RANDOM, IN_TURN, Number, Walk, WalkOrder, greatest_divisor, number_put, walk_take,
    walk_value)
from carp_fast.engine._wire cimport (
    ADVERTISEMENT4_LENGTH, ADVERTISEMENT6_LENGTH, ARP_FRAME_LENGTH, CARP_LENGTH, ETHERNET_LENGTH,
    IPV4_LENGTH, IPV6_LENGTH, NA_FRAME_LENGTH, STAMP_LENGTH, wire_build4, wire_build6,
    wire_build_announcement, wire_build_carp, wire_checksum, wire_checksum6)

from carp_fast.loadtest._walk import ORDER_WORDS

# The kinds have the words of the verdicts, where a receiver has one.
KIND_WORDS = ("ok", "bad_auth", "bad_checksum", "bad_ttl", "bad_version", "bad_length", "replay",
              "resignation", "changed_skew", "vrrp", "arp", "na")
FIELD_WORDS = ("stream", "source", "source6", "destination", "destination6", "source_mac",
               "advbase", "advskew", "demote", "counter", "vlan", "announcement")
FLOWS_MAX = 1 << 20
"""Virtual hosts times sources, destinations and VLANs: each has a counter of its own."""
WEIGHTS_MAX = 1 << 16
"""The sum of the weights of a mix, once divided by what they have in common."""
VALUES_MAX = (1 << 32) - 1
"""Values that a field walks over."""

cdef uint64_t TOGETHER_MAX = 1 << 62  # frames after which walks begin together again

cdef enum:
    TAG_LENGTH = 4
    SHORT_LENGTH = 20               # of CARP's 36 bytes: the counter, a fifth of the digest
    WRONG_HOP_LIMIT = 254
    WRONG_VERSION = 4
    VRRP4_LENGTH = 20               # RFC 3768, one address
    VRRP6_LENGTH = 24               # RFC 5798, one address
    VLAN_ID = 0xfff                 # of a tag, whose other bits are a priority

assert len(KIND_WORDS) == KINDS and len(FIELD_WORDS) == FIELDS


cdef inline void put16(uint8_t* p, uint32_t x) noexcept nogil:
    p[0] = (x >> 8) & 0xff
    p[1] = x & 0xff


cdef inline void put64(uint8_t* p, uint64_t x) noexcept nogil:
    cdef int i
    for i in range(8):
        p[i] = (x >> (56 - 8 * i)) & 0xff


cdef inline void take_bytes(Walk* walk, uint64_t* random, uint8_t* data, int length) noexcept nogil:
    """Write the next value in so many bytes; nothing for a field that does not walk."""
    cdef Number value
    if walk.count:
        walk_take(walk, random, &value)
        number_put(data, length, &value)


cdef bytes bytes_at(const Walk* walk, uint32_t index, const uint8_t* usual, int length):
    """An address of a walk, or the usual one of a field that does not walk."""
    cdef Number value
    cdef uint8_t data[16]
    memcpy(data, usual, length)
    if walk.count:
        walk_value(walk, index, &value)
        number_put(data, length, &value)
    return (<const char*>data)[:length]


cdef inline void put_multicast_mac(uint8_t* mac, const uint8_t* group, int family) noexcept nogil:
    """The Ethernet address of a group (RFC 1112, RFC 2464)."""
    if family == 4:
        mac[0], mac[1], mac[2], mac[3] = 1, 0, 0x5e, group[1] & 0x7f
        mac[4], mac[5] = group[2], group[3]
    else:
        mac[0] = mac[1] = 0x33
        memcpy(mac + 2, group + 12, 4)


cdef inline uint64_t first_counter(const Walk* walk) noexcept nogil:
    return walk.listed.low if walk.listed != NULL else walk.first.low


# -------------------------------------------------------------------------- making a frame invalid

cdef void set_hop_limit(uint8_t* ip, int family, uint8_t hop_limit) noexcept nogil:
    if family == 6:
        ip[7] = hop_limit
        return
    ip[8] = hop_limit
    sum_header(ip)


cdef void sum_header(uint8_t* ip) noexcept nogil:
    """Write the checksum of an IPv4 header that was changed."""
    put16(ip + 10, 0)
    put16(ip + 10, wire_checksum(ip, IPV4_LENGTH))


cdef void set_payload(uint8_t* ip, int family, uint32_t length) noexcept nogil:
    if family == 6:
        put16(ip + 4, length)
        return
    put16(ip + 2, IPV4_LENGTH + length)
    sum_header(ip)


cdef void sum_carp(uint8_t* carp, int kind) noexcept nogil:
    """Write the checksum of a signed advertisement; wrong if that is its kind."""
    if kind == BAD_AUTH_KIND:
        carp[16 + carp[15] % DIGEST_LENGTH] ^= 0x01
    put16(carp + 6, wire_checksum(carp, CARP_LENGTH))
    if kind == BAD_CHECKSUM_KIND:
        carp[6] ^= 0x01


cdef uint32_t build_vrrp(uint8_t* ip, uint8_t* vrrp, const Stream* stream,
                         uint64_t number) noexcept nogil:
    """Write a whole VRRP advertisement instead of CARP; `number` makes each frame different.

    VRRPv2 has it in the former passphrase, which receivers ignore (RFC 3768, 5.3.10); VRRPv3 in
    the virtual router's link-local address.
    """
    cdef uint32_t length = VRRP4_LENGTH if stream.family == 4 else VRRP6_LENGTH
    memset(vrrp, 0, length)
    vrrp[1], vrrp[2], vrrp[3] = stream.vhid, 255 - stream.advskew, 1
    set_payload(ip, stream.family, length)
    if stream.family == 4:
        vrrp[0] = 0x21
        vrrp[5] = 1
        memcpy(vrrp + 8, stream.source, 4)
        put64(vrrp + 12, number)
        put16(vrrp + 6, wire_checksum(vrrp, length))
    else:
        vrrp[0] = 0x31
        vrrp[5] = 100                               # hundredths of a second
        vrrp[8], vrrp[9] = 0xfe, 0x80
        put64(vrrp + 16, number)
        put16(vrrp + 6, wire_checksum6(ip, vrrp, length))
    return length


# -------------------------------------------------------------------------------------- the frames

cdef class Mix(FrameSource):
    """Frames of several kinds by weight; every advertisement is a frame that was never sent before.

    streams: a sequence of (vhid, passphrase, message, source, destination, source_mac,
    destination_mac, advbase, advskew, demote), a virtual host in one family: message: the input of
    the digest, see _prepared.signed_message; addresses of 4 or 16 bytes, MACs of 6.
    weights: {a word of KIND_WORDS: a whole number}. announcements: a sequence of (mac, address,
    router), for the kinds arp and na. walks: {a word of FIELD_WORDS: ("increment" or "random",
    values)}, values: a range or a sequence of whole numbers. The field "counter" has a walk of its
    own for each flow; a range of one number is where it starts to count up, and without a walk it
    starts at 1. seed: of all random values. stamped: leave room behind the frame for a stamp.
    Raises ValueError.

    Kinds: ok; bad_auth: a bit of the digest is wrong; bad_checksum; bad_ttl: 254; bad_version: 4;
    bad_length: cut after 20 bytes of CARP; replay: the latest counter of its flow again;
    resignation; changed_skew: the digest is right, since it does not cover the skew, which is 0
    (254 where it was 0); vrrp; arp and na: announces an address of the virtual hosts.
    All take the next counter of their flow, except bad_length, replay, vrrp, arp and na.
    """

    def __init__(self, streams, weights, *, announcements=(), walks=None, uint64_t seed=0,
                 bint stamped=False):
        if self.streams != NULL:
            raise ValueError("a mix is set up once")
        self.kinds, self.random, self.kept = KIND_WORDS, seed, []
        memset(self.walks, 0, sizeof(self.walks))
        memset(self.made_of, 0, sizeof(self.made_of))
        self.take_weights(weights)
        self.take_streams(streams)
        self.take_announcements(announcements)
        self.take_walks({"stream": ("increment", range(self.stream_count)),
                         "counter": ("increment", range(1, 2)), **(walks or {})})
        self.take_flows()
        self.stamped = STAMP_LENGTH if stamped else 0
        self.longest = self.longest_made() + (TAG_LENGTH if self.tagged else 0) + self.stamped

    def __dealloc__(self):
        free(self.streams)
        free(self.announcements)
        free(self.flows)
        free(self.order)

    cdef take_weights(self, weights):
        """Order the kinds so that the weights hold over any part of the sequence."""
        unknown = set(weights) - set(KIND_WORDS)
        if unknown:
            raise ValueError(
                f"{min(unknown)!r} is not a kind of frame; known: {', '.join(KIND_WORDS)}")
        if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
            raise ValueError("weights are whole numbers, none below 0 and one above it")
        common = 0
        for weight in weights.values():
            common = greatest_divisor(common, weight)
        asked = {KIND_WORDS.index(word): weight // common
                 for word, weight in weights.items() if weight}
        total = sum(asked.values())
        if total > WEIGHTS_MAX:
            raise ValueError(f"the weights add up to {total:,}, at most {WEIGHTS_MAX:,} "
                             "(WEIGHTS_MAX)")
        self.order = <uint8_t*>calloc(total, 1)
        if self.order == NULL:
            raise MemoryError("mix")
        self.order_length = total
        owed = dict.fromkeys(asked, 0)
        for i in range(total):
            for kind, weight in asked.items():
                owed[kind] += weight
            kind = max(owed, key=owed.__getitem__)
            owed[kind] -= total
            self.order[<uint32_t>i] = kind

    cdef uint32_t longest_made(self):
        """The length of the longest frame, without a tag and a stamp."""
        cdef uint32_t i, longest = ARP_FRAME_LENGTH
        for i in range(self.stream_count):
            longest = max(longest, ADVERTISEMENT4_LENGTH if self.streams[i].family == 4
                          else ADVERTISEMENT6_LENGTH)
        return max(longest, NA_FRAME_LENGTH) if self.walks[<int>NA_KIND][<int>ANNOUNCEMENT].count \
            else longest

    cdef take_streams(self, streams):
        cdef Stream* stream
        cdef bytes secret, message, source, destination, mac, target_mac
        if not streams:
            raise ValueError("a mix needs at least one virtual host")
        self.streams = <Stream*>calloc(len(streams), sizeof(Stream))
        if self.streams == NULL:
            raise MemoryError("mix")
        for (vhid, secret, message, source, destination, mac, target_mac, advbase, advskew,
             demote) in streams:
            if (len(source) not in (4, 16) or len(destination) != len(source) or len(mac) != 6
                    or len(target_mac) != 6 or not 1 <= len(secret) <= KEY_LENGTH):
                raise ValueError("a stream has two addresses of one family, two MACs and a "
                                 "passphrase")
            stream = &self.streams[self.stream_count]
            stream.vhid, stream.family = vhid, 4 if len(source) == 4 else 6
            stream.advbase, stream.advskew, stream.demote = advbase, advskew, demote
            memcpy(stream.source, <const char*>source, len(source))
            memcpy(stream.destination, <const char*>destination, len(source))
            memcpy(stream.source_mac, <const char*>mac, 6)
            memcpy(stream.destination_mac, <const char*>target_mac, 6)
            secret = secret.ljust(KEY_LENGTH, b"\0")
            auth_prepare(&stream.key, secret, message, <uint32_t>len(message))
            self.stream_count += 1

    cdef take_announcements(self, announcements):
        cdef Announcement* each
        cdef bytes mac, address
        self.announcements = <Announcement*>calloc(max(len(announcements), 1), sizeof(Announcement))
        if self.announcements == NULL:
            raise MemoryError("mix")
        self.announced = frozenset((mac, address) for mac, address, _ in announcements)
        for mac, address, router in announcements:
            if len(mac) != 6 or len(address) not in (4, 16):
                raise ValueError("an announcement has a MAC and an address")
            each = &self.announcements[self.announcement_count]
            memcpy(each.mac, <const char*>mac, 6)
            memcpy(each.address, <const char*>address, len(address))
            each.family, each.router = 4 if len(address) == 4 else 6, router
            self.announcement_count += 1
        for kind, family in ((ARP_KIND, 4), (NA_KIND, 6)):
            of_it = [i for i in range(self.announcement_count)
                     if self.announcements[<uint32_t>i].family == family]
            if self.order[0] == kind or kind in self.order[:self.order_length]:
                if not of_it:
                    raise ValueError(f"{KIND_WORDS[kind]}: no virtual host has an IPv{family} "
                                     "address to announce")
                self.set_walk(kind, ANNOUNCEMENT, IN_TURN, of_it, 0)

    cdef take_walks(self, dict walks):
        unknown = set(walks) - set(FIELD_WORDS)
        if unknown:
            raise ValueError(f"{min(unknown)!r} cannot walk; known: {', '.join(FIELD_WORDS)}")
        together = 1
        for field, word in enumerate(FIELD_WORDS):
            if word not in walks:
                continue
            order, values = walks[word]
            if order not in ORDER_WORDS or not 1 <= len(values) <= VALUES_MAX:
                raise ValueError(f"{word}: a walk is {' or '.join(ORDER_WORDS)}, over 1 to "
                                 f"{VALUES_MAX:,} values (VALUES_MAX)")
            shift_every = 0
            if order == "increment" and len(values) > 1 and word != "counter":
                common = greatest_divisor(together, <uint64_t>len(values))
                if common > 1 and together // common * len(values) < TOGETHER_MAX:
                    shift_every = together // common * len(values)
                # With the shift, so many frames as there are combinations have each once.
                together = min(together * len(values), TOGETHER_MAX)
            for kind in range(KINDS):
                self.set_walk(kind, field, ORDER_WORDS.index(order), values, shift_every)
        self.tagged = "vlan" in walks
        self.macs = walks["source_mac"][1] if "source_mac" in walks else None
        self.vlans = walks["vlan"][1] if self.tagged else None

    cdef set_walk(self, int kind, int field, int order, values, uint64_t shift_every):
        """Set the walk of one kind's frames; a range stays two numbers, however long it is."""
        cdef Walk* walk = &self.walks[kind][field]
        walk.order, walk.count = <WalkOrder>order, <uint32_t>len(values)
        walk.shift_every = walk.until_shift = shift_every
        first, last = values[0], values[len(values) - 1]
        if isinstance(values, range) and first >> 64 == last >> 64 and values.step > 0:
            walk.first.high, walk.first.low = first >> 64, first & 0xffffffffffffffff
            walk.step = values.step
            return
        listed = b"".join((value >> 64).to_bytes(8, "little")
                          + (value & 0xffffffffffffffff).to_bytes(8, "little")
                          for value in values)
        self.kept.append(listed)
        walk.listed = <const Number*><const char*>listed

    cdef uint32_t values_of(self, int field4, int field6, int family) noexcept nogil:
        """How many values a field has in the frames of a family; 1 if it does not walk."""
        return max(self.walks[0][field4 if family == 4 else field6].count, 1)

    cdef tuple look_of(self, const Stream* stream):
        """What a receiver tells the stream apart by, except for what walks."""
        cdef int size = 4 if stream.family == 4 else 16
        source = (<const char*>stream.source)[:size]
        destination = (<const char*>stream.destination)[:size]
        if self.walks[0][SOURCE if stream.family == 4 else SOURCE6].count:
            source = b""
        if self.walks[0][DESTINATION if stream.family == 4 else DESTINATION6].count:
            destination = b""
        return stream.family, stream.vhid, source, destination

    cdef take_flows(self):
        """Make a counter for each source, destination, vhid and VLAN.

        Streams that look alike, as those of one vhid on several interfaces of a configuration,
        share their counters: a receiver could not tell them apart.
        """
        cdef uint32_t i
        cdef Stream* stream
        flows, firsts = 0, {}
        for i in range(self.stream_count):
            stream = &self.streams[i]
            look = self.look_of(stream)
            stream.shares = look in firsts
            stream.first_flow = firsts.setdefault(look, flows)
            if stream.shares:
                continue
            flows += (self.values_of(SOURCE, SOURCE6, stream.family)
                      * self.values_of(DESTINATION, DESTINATION6, stream.family)
                      * self.values_of(VLAN, VLAN, stream.family))
            if flows > FLOWS_MAX:
                raise ValueError("virtual hosts times sources, destinations and VLANs: more than "
                                 f"{FLOWS_MAX:,} (FLOWS_MAX)")
        self.flow_count = flows
        self.flows = <Flow*>calloc(flows, sizeof(Flow))
        if self.flows == NULL:
            raise MemoryError("mix")

    # --- making one -----------------------------------------------------------------------------

    cdef bint make(self, uint8_t* whole, Made* made) noexcept nogil:
        cdef int kind = self.order[self.turn]
        cdef Number tag
        cdef uint8_t* frame = whole + TAG_LENGTH if self.tagged else whole
        self.turn += 1
        if self.turn == self.order_length:
            self.turn = 0
        made.kind, made.flow, made.replay = kind, NO_FLOW, False
        if self.tagged:
            walk_take(&self.walks[kind][VLAN], &self.random, &tag)
        if kind == ARP_KIND or kind == NA_KIND:
            made.length = self.make_announcement(kind, frame)
        else:
            made.length = self.make_advertisement(kind, frame, made)
        self.made_of[kind] += 1
        if self.tagged:
            memmove(whole, frame, 12)
            put16(whole + 12, 0x8100)
            number_put(whole + 14, 2, &tag)
            made.length += TAG_LENGTH
        if self.stamped:
            memset(whole + made.length, 0, self.stamped)
            made.length += <uint32_t>self.stamped
        return True

    cdef void give_back(self, const Made* made) noexcept nogil:
        self.made_of[made.kind] -= 1
        if made.flow == NO_FLOW:
            return
        if made.replay:
            self.flows[made.flow].replayed -= 1
        elif made.kind == VRRP_KIND:
            self.flows[made.flow].vrrp -= 1
        elif made.kind == BAD_LENGTH_KIND:
            self.flows[made.flow].short_ones -= 1
        else:
            self.flows[made.flow].sent -= 1

    cdef uint32_t make_announcement(self, int kind, uint8_t* frame) noexcept nogil:
        cdef Number which
        cdef Announcement* each
        cdef uint8_t mac[6]
        walk_take(&self.walks[kind][ANNOUNCEMENT], &self.random, &which)
        each = &self.announcements[which.low]
        memcpy(mac, each.mac, 6)
        take_bytes(&self.walks[kind][SOURCE_MAC], &self.random, mac, 6)
        return wire_build_announcement(frame, mac, each.family, each.address, each.router)

    cdef uint32_t make_advertisement(self, int kind, uint8_t* frame, Made* made) noexcept nogil:
        cdef Walk* walks = self.walks[kind]
        cdef Number which
        cdef Head head
        cdef const Stream* stream
        cdef uint8_t* ip = frame + ETHERNET_LENGTH
        cdef uint8_t* carp
        walk_take(&walks[STREAM], &self.random, &which)
        stream = &self.streams[which.low]
        self.fill_head(walks, stream, &head)
        made.flow = head.flow
        self.fill_counter(kind, &walks[COUNTER], &head, made)
        if stream.family == 4:
            wire_build4(frame, head.destination_mac, head.source_mac, head.source,
                        head.destination)
            carp = ip + IPV4_LENGTH
        else:
            wire_build6(frame, head.destination_mac, head.source_mac, head.source,
                        head.destination)
            carp = ip + IPV6_LENGTH
        if kind == VRRP_KIND:
            return <uint32_t>(carp - frame) + build_vrrp(ip, carp, stream, head.counter)
        if kind == RESIGNATION:
            head.advbase = head.advskew = 255
        elif kind == CHANGED_SKEW:
            head.advskew = 0 if head.advskew else 254
        wire_build_carp(carp, stream.vhid, head.advskew, head.demote, head.advbase, head.counter)
        if kind == BAD_VERSION_KIND:
            carp[0] = WRONG_VERSION << 4 | 1
        self.sign(kind, stream, carp)
        if kind == BAD_TTL_KIND:
            set_hop_limit(ip, stream.family, WRONG_HOP_LIMIT)
        elif kind == BAD_LENGTH_KIND:
            set_payload(ip, stream.family, SHORT_LENGTH)
            return <uint32_t>(carp - frame) + SHORT_LENGTH
        return <uint32_t>(carp - frame) + CARP_LENGTH

    cdef void sign(self, int kind, const Stream* stream, uint8_t* carp) noexcept nogil:
        """Compute the digest, together with those of other frames."""
        cdef Unsigned* frame = &self.waiting[self.waiting_count]
        frame.carp, frame.stream, frame.kind = carp, stream, kind
        self.waiting_count += 1
        if self.waiting_count == TOGETHER:
            self.finish()

    cdef void finish(self) noexcept nogil:
        """Compute the digests that wait for others."""
        cdef Signature signatures[TOGETHER]
        cdef uint32_t i
        for i in range(self.waiting_count):
            signatures[i].key = &self.waiting[i].stream.key
            signatures[i].counter = self.waiting[i].carp + 8
            signatures[i].digest = self.waiting[i].carp + 16
        auth_sign_many(signatures, self.waiting_count)
        for i in range(self.waiting_count):
            sum_carp(self.waiting[i].carp, self.waiting[i].kind)
        self.waiting_count = 0

    cdef uint32_t flow_at(self, const Stream* stream, uint32_t source, uint32_t destination,
                          uint32_t vlan) noexcept nogil:
        """The flow of a stream's frames with these of its sources, destinations and VLANs."""
        cdef uint32_t at = source * self.values_of(DESTINATION, DESTINATION6, stream.family)
        at = (at + destination) * self.values_of(VLAN, VLAN, stream.family) + vlan
        return stream.first_flow + at

    cdef void fill_head(self, Walk* walks, const Stream* stream, Head* head) noexcept nogil:
        """Set the fields of a frame except the counter, and the flow that they make it part of."""
        cdef Walk* source = &walks[SOURCE if stream.family == 4 else SOURCE6]
        cdef Walk* destination = &walks[DESTINATION if stream.family == 4 else DESTINATION6]
        cdef int length = 4 if stream.family == 4 else 16
        memcpy(head.source, stream.source, 16)
        memcpy(head.destination, stream.destination, 16)
        memcpy(head.source_mac, stream.source_mac, 6)
        memcpy(head.destination_mac, stream.destination_mac, 6)
        head.advbase, head.advskew, head.demote = stream.advbase, stream.advskew, stream.demote
        take_bytes(source, &self.random, head.source, length)
        if destination.count:
            take_bytes(destination, &self.random, head.destination, length)
            put_multicast_mac(head.destination_mac, head.destination, stream.family)
        take_bytes(&walks[SOURCE_MAC], &self.random, head.source_mac, 6)
        take_bytes(&walks[ADVBASE], &self.random, &head.advbase, 1)
        take_bytes(&walks[ADVSKEW], &self.random, &head.advskew, 1)
        take_bytes(&walks[DEMOTE], &self.random, &head.demote, 1)
        head.flow = self.flow_at(stream, source.index, destination.index, walks[VLAN].index)

    cdef void fill_counter(self, int kind, Walk* walk, Head* head, Made* made) noexcept nogil:
        """Set the counter of a frame: the next one of the flow, or the latest again."""
        cdef Flow* flow = &self.flows[made.flow]
        cdef Number value
        if kind == VRRP_KIND or kind == BAD_LENGTH_KIND:
            head.counter = first_counter(walk) + self.made_of[kind]
            if kind == VRRP_KIND:
                flow.vrrp += 1
            else:
                flow.short_ones += 1
            return
        if kind == REPLAY_KIND:
            # If the flow has sent nothing yet, the counter before its first.
            head.counter = flow.last if flow.sent else first_counter(walk) - 1
            made.replay = True
            flow.replayed += 1
            return
        if walk.order == AT_RANDOM:
            walk_take(walk, &self.random, &value)
            head.counter = value.low
        elif walk.listed != NULL:
            head.counter = walk.listed[flow.sent % walk.count].low
        elif walk.count == 1:
            head.counter = walk.first.low + flow.sent
        else:
            head.counter = walk.first.low + flow.sent % walk.count * walk.step
        flow.last = head.counter
        flow.sent += 1

    # --- what was made --------------------------------------------------------------------------

    def made(self) -> dict:
        """The frames of each kind made and not given back: {word: number}, without those at 0."""
        return {word: self.made_of[i] for i, word in enumerate(KIND_WORDS)
                if self.made_of[<int>i]}

    def sent_by(self) -> list:
        """The advertisements sent: a tuple for each flow that has any.

        (vhid, source, destination, vlan, sent, replayed, short, vrrp): source and destination of 4
        or 16 bytes; vlan: None without a tag; sent: frames that took a counter, each the next one;
        replayed: frames with the latest one again; short, vrrp: frames without one, of the kinds
        bad_length and vrrp. Valid once a flood has ended.
        """
        cdef uint32_t i, source, destination, vlan
        cdef Stream* stream
        cdef Flow* flow
        found = []
        for i in range(self.stream_count):
            stream = &self.streams[i]
            if stream.shares:
                continue
            size = 4 if stream.family == 4 else 16
            for source in range(self.values_of(SOURCE, SOURCE6, stream.family)):
                for destination in range(self.values_of(DESTINATION, DESTINATION6, stream.family)):
                    for vlan in range(self.values_of(VLAN, VLAN, stream.family)):
                        flow = &self.flows[self.flow_at(stream, source, destination, vlan)]
                        if flow.sent or flow.replayed or flow.short_ones or flow.vrrp:
                            found.append((
                                stream.vhid,
                                bytes_at(&self.walks[0][SOURCE if size == 4 else SOURCE6],
                                         source, stream.source, size),
                                bytes_at(&self.walks[0][DESTINATION if size == 4
                                                        else DESTINATION6],
                                         destination, stream.destination, size),
                                self.vlan_at(vlan), flow.sent, flow.replayed,
                                flow.short_ones, flow.vrrp))
        return found

    def announces(self, bytes mac, bytes address, vlan=None) -> bool:
        """Whether an announcement of `address` by `mac` may be one of these frames."""
        if vlan is not None and (self.vlans is None or vlan not in self.vlans):
            return False
        if self.macs is None:
            return (mac, address) in self.announced
        return int.from_bytes(mac, "big") in self.macs and any(
            address == each for _, each in self.announced)

    cdef object vlan_at(self, uint32_t index):
        """The VLAN of a tag, without its priority; None: frames have no tag."""
        cdef Number tag
        if not self.tagged:
            return None
        walk_value(&self.walks[0][VLAN], index, &tag)
        return tag.low & VLAN_ID
