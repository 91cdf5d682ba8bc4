"""Frames of Ethernet, IPv4, IPv6, CARP, ARP and NA: parse to a verdict, build.

Bytes in, a verdict or bytes out. Knows no virtual host, key, socket or clock: what depends on
configuration (unknown vhid, destination, digest, loop, replay) is judged by _engine.pyx with the
verdicts named here. Layout: ip_carp.h of the BSDs; RFC 791, RFC 826, RFC 4861,
RFC 8200.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

# One word for each rejection, in the order of the checks: counters, metrics and logs use these.
VERDICT_WORDS = ("ok", "bad_length", "bad_ttl", "bad_source", "bad_checksum", "vrrp",
                 "bad_version", "bad_type", "bad_vhid", "bad_destination", "bad_auth", "loop",
                 "replay")
assert len(VERDICT_WORDS) == VERDICTS

cdef enum:
    PROTOCOL_ICMPV6 = 58
    NA_LENGTH = 32                  # ICMPv6 with the target and one option
    HOP_BY_HOP_OPTIONS = 0          # next headers of IPv6, each followed by another one
    ROUTING_HEADER = 43
    DESTINATION_OPTIONS = 60

# ff02::1 and its Ethernet address.
cdef uint8_t[16] ALL_NODES = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
cdef uint8_t[6] ALL_NODES_MAC = [0x33, 0x33, 0, 0, 0, 1]
cdef uint8_t[4] STAMP_MARK = [0x73, 0x65, 0x6e, 0x74]       # "sent"


cdef inline uint16_t be16(const uint8_t* p) noexcept nogil:
    return <uint16_t>(p[0] << 8 | p[1])


cdef inline uint64_t be64(const uint8_t* p) noexcept nogil:
    # Written out, since compilers make one load of it, but not of a loop.
    return (<uint64_t>p[0] << 56 | <uint64_t>p[1] << 48 | <uint64_t>p[2] << 40
            | <uint64_t>p[3] << 32 | <uint64_t>p[4] << 24 | <uint64_t>p[5] << 16
            | <uint64_t>p[6] << 8 | p[7])


cdef inline void put16(uint8_t* p, uint32_t x) noexcept nogil:
    p[0] = (x >> 8) & 0xff
    p[1] = x & 0xff


cdef uint16_t wire_checksum(const uint8_t* data, uint32_t length) noexcept nogil:
    """The Internet checksum (RFC 1071); 0 over data that contains its own right checksum."""
    cdef uint64_t total = 0
    cdef uint32_t i, word
    cdef uint16_t half
    for i in range(0, length & ~<uint32_t>3, 4):
        memcpy(&word, data + i, 4)
        total += word
    if length & 2:
        memcpy(&half, data + (length & ~<uint32_t>3), 2)
        total += half
    if length & 1:
        half = 0
        memcpy(&half, data + length - 1, 1)
        total += half
    total = (total & <uint64_t>0xffffffffU) + (total >> 32)
    total = (total & <uint64_t>0xffffffffU) + (total >> 32)
    total = (total & 0xffff) + (total >> 16)
    total = (total & 0xffff) + (total >> 16)
    half = <uint16_t>~total
    # Summed in the machine's byte order; read back as bytes it is the big-endian checksum.
    return be16(<const uint8_t*>&half)


cdef inline bint is_short_vrrp(const uint8_t* payload, uint32_t length) noexcept nogil:
    """Whether a payload too short for CARP is a whole VRRP advertisement (RFC 3768, RFC 5798)."""
    if length < 8 or (payload[0] & 15) != 1:
        return False
    if payload[0] >> 4 == 2:
        return length == 16 + 4 * <uint32_t>payload[3]
    if payload[0] >> 4 == 3:
        return length == 8 + 4 * <uint32_t>payload[3] or length == 8 + 16 * <uint32_t>payload[3]
    return False


cdef Verdict wire_parse_ip(const uint8_t* frame, uint32_t length,
                           Advertisement* a) noexcept nogil:
    """Judge a frame up to length and TTL, and fill the addresses and `a.carp`.

    `a.carp` stays NULL if the verdict is NOT_CARP, BAD_LENGTH or VRRP. A unicast's TTL is not
    checked: its source must be a peer, which the caller checks. wire_parse_carp continues.
    """
    cdef uint32_t length_left, payload
    cdef Verdict verdict
    cdef uint8_t hop_limit
    a.carp = NULL
    if length < ETHERNET_LENGTH + IPV4_LENGTH:
        return NOT_CARP
    length_left = length - ETHERNET_LENGTH
    if frame[12] == 0x08 and frame[13] == 0x00:
        verdict = open_ipv4(frame + ETHERNET_LENGTH, length_left, a, &payload)
        hop_limit = frame[ETHERNET_LENGTH + 8]
    elif frame[12] == 0x86 and frame[13] == 0xdd:
        verdict = open_ipv6(frame + ETHERNET_LENGTH, length_left, a, &payload)
        hop_limit = frame[ETHERNET_LENGTH + 7]
    else:
        return NOT_CARP
    if verdict != VERDICT_OK:
        return verdict
    if payload < CARP_LENGTH:
        verdict = VRRP if is_short_vrrp(a.carp, payload) else BAD_LENGTH
        a.carp = NULL
        return verdict
    a.vrrp_length = payload == 16 + 4 * <uint32_t>a.carp[3]
    a.vhid = a.carp[1]
    memcpy(a.source_mac, frame + 6, 6)
    return BAD_TTL if hop_limit != 255 and not a.unicast else VERDICT_OK


cdef Verdict open_ipv4(const uint8_t* ip, uint32_t length, Advertisement* a,
                       uint32_t* payload) noexcept nogil:
    cdef uint32_t header, total
    if ip[0] >> 4 != 4 or ip[9] != PROTOCOL_CARP:
        return NOT_CARP
    header = (ip[0] & 15) * 4
    total = be16(ip + 2)
    if header < IPV4_LENGTH or total > length or total < header:
        return BAD_LENGTH
    if be16(ip + 6) & 0x3fff:                       # more fragments, or an offset
        return BAD_LENGTH
    a.family = 4
    a.ip = ip
    a.carp = ip + header
    payload[0] = total - header
    memset(a.source, 0, 16)
    memset(a.destination, 0, 16)
    memcpy(a.source, ip + 12, 4)
    memcpy(a.destination, ip + 16, 4)
    a.unicast = ip[16] >> 4 != 0xe and (ip[16] & ip[17] & ip[18] & ip[19]) != 0xff
    return VERDICT_OK


cdef bint is_extended(const uint8_t* ip, uint32_t length) noexcept nogil:
    """Whether CARP follows the first extension header of an IPv6 packet."""
    return (length > IPV6_LENGTH and ip[IPV6_LENGTH] == PROTOCOL_CARP
            and (ip[6] == HOP_BY_HOP_OPTIONS or ip[6] == ROUTING_HEADER
                 or ip[6] == FRAGMENT_HEADER or ip[6] == DESTINATION_OPTIONS))


cdef Verdict open_ipv6(const uint8_t* ip, uint32_t length, Advertisement* a,
                       uint32_t* payload) noexcept nogil:
    """Find the payload.

    Behind an extension header, which every fragment has, an advertisement has a wrong length;
    behind two it is not CARP, as for the filters of the sockets.
    """
    if length < IPV6_LENGTH or ip[0] >> 4 != 6:
        return NOT_CARP
    if ip[6] != PROTOCOL_CARP:
        return BAD_LENGTH if is_extended(ip, length) else NOT_CARP
    payload[0] = be16(ip + 4)
    if payload[0] > length - IPV6_LENGTH:
        return BAD_LENGTH
    a.family = 6
    a.ip = ip
    a.carp = ip + IPV6_LENGTH
    memcpy(a.source, ip + 8, 16)
    memcpy(a.destination, ip + 24, 16)
    a.unicast = ip[24] != 0xff
    return VERDICT_OK


cdef Verdict wire_parse_carp(Advertisement* a) noexcept nogil:
    """Judge checksums, version and type of what wire_parse_ip accepted, and fill in the rest.

    The checks run in the order of the Verdict enum. Version 3 passes as OK: only a digest
    distinguishes it from VRRP.
    """
    cdef const uint8_t* carp = a.carp
    a.version = carp[0] >> 4
    a.advskew = carp[2]
    a.demote = carp[4]
    a.advbase = carp[5]
    a.counter = be64(carp + 8)
    if a.family == 4 and wire_checksum(a.ip, (a.ip[0] & 15) * 4):
        return BAD_CHECKSUM
    if wire_checksum(carp, CARP_LENGTH):
        return VRRP if a.version == 3 or a.vrrp_length else BAD_CHECKSUM
    if a.version == 3:
        return VERDICT_OK
    if a.version != 2:
        return BAD_VERSION
    if carp[0] & 15 != 1:
        return BAD_TYPE
    return VERDICT_OK


cdef void wire_build4(uint8_t* frame, const uint8_t* destination_mac, const uint8_t* source_mac,
                      const uint8_t* source, const uint8_t* destination) noexcept nogil:
    """Write Ethernet and IPv4 of an advertisement: 34 constant bytes; TOS 0x10, DF, TTL 255."""
    cdef uint8_t* ip = frame + ETHERNET_LENGTH
    memcpy(frame, destination_mac, 6)
    memcpy(frame + 6, source_mac, 6)
    put16(frame + 12, 0x0800)
    memset(ip, 0, IPV4_LENGTH)
    ip[0] = 0x45
    ip[1] = 0x10
    put16(ip + 2, IPV4_LENGTH + CARP_LENGTH)
    put16(ip + 6, 0x4000)
    ip[8] = 255
    ip[9] = PROTOCOL_CARP
    memcpy(ip + 12, source, 4)
    memcpy(ip + 16, destination, 4)
    put16(ip + 10, wire_checksum(ip, IPV4_LENGTH))


cdef void wire_build6(uint8_t* frame, const uint8_t* destination_mac, const uint8_t* source_mac,
                      const uint8_t* source, const uint8_t* destination) noexcept nogil:
    """Write Ethernet and IPv6 of an advertisement: 54 constant bytes; hop limit 255."""
    memcpy(frame, destination_mac, 6)
    memcpy(frame + 6, source_mac, 6)
    build_ipv6(frame, CARP_LENGTH, PROTOCOL_CARP, source, destination)


cdef void build_ipv6(uint8_t* frame, uint32_t payload, uint8_t next_header, const uint8_t* source,
                     const uint8_t* destination) noexcept nogil:
    cdef uint8_t* ip = frame + ETHERNET_LENGTH
    put16(frame + 12, 0x86dd)
    memset(ip, 0, 8)
    ip[0] = 0x60
    put16(ip + 4, payload)
    ip[6] = next_header
    ip[7] = 255
    memcpy(ip + 8, source, 16)
    memcpy(ip + 24, destination, 16)


cdef void wire_build_carp(uint8_t* carp, uint8_t vhid, uint8_t advskew, uint8_t demote,
                          uint8_t advbase, uint64_t counter) noexcept nogil:
    """Write the first 16 bytes of CARP, checksum zero: the digest comes next, then the checksum."""
    cdef int i
    carp[0] = 0x21
    carp[1] = vhid
    carp[2] = advskew
    carp[3] = 7
    carp[4] = demote
    carp[5] = advbase
    carp[6] = 0
    carp[7] = 0
    for i in range(8):
        carp[8 + i] = (counter >> (56 - 8 * i)) & 0xff


cdef void wire_build_arp(uint8_t* frame, const uint8_t* source_mac,
                         const uint8_t* address) noexcept nogil:
    """Write a gratuitous ARP request for the IPv4 `address`, held by `source_mac`."""
    cdef uint8_t* arp = frame + ETHERNET_LENGTH
    memset(frame, 0xff, 6)
    memcpy(frame + 6, source_mac, 6)
    put16(frame + 12, 0x0806)
    put16(arp, 1)                                   # hardware type: Ethernet
    put16(arp + 2, 0x0800)
    arp[4] = 6
    arp[5] = 4
    put16(arp + 6, 1)                               # request
    memcpy(arp + 8, source_mac, 6)
    memcpy(arp + 14, address, 4)
    memcpy(arp + 18, source_mac, 6)
    memcpy(arp + 24, address, 4)


cdef void wire_build_na(uint8_t* frame, const uint8_t* source_mac, const uint8_t* address,
                        bint router) noexcept nogil:
    """Write an unsolicited neighbour advertisement for the IPv6 `address`, held by `source_mac`.

    To all nodes, from the address itself, Override set, Solicited clear. `router` must be set if
    the holder forwards, or hosts would drop it as their gateway (RFC 4861, 7.2.5).
    """
    cdef uint8_t* icmp = frame + ETHERNET_LENGTH + IPV6_LENGTH
    memcpy(frame, ALL_NODES_MAC, 6)
    memcpy(frame + 6, source_mac, 6)
    build_ipv6(frame, NA_LENGTH, PROTOCOL_ICMPV6, address, ALL_NODES)
    memset(icmp, 0, NA_LENGTH)
    icmp[0] = 136                                   # neighbour advertisement
    icmp[4] = 0xa0 if router else 0x20
    memcpy(icmp + 8, address, 16)
    icmp[24] = 2                                    # target link-layer address
    icmp[25] = 1                                    # in units of 8 bytes
    memcpy(icmp + 26, source_mac, 6)
    put16(icmp + 2, wire_checksum6(frame + ETHERNET_LENGTH, icmp, NA_LENGTH))


cdef uint16_t wire_checksum6(const uint8_t* ip, const uint8_t* payload,
                             uint32_t length) noexcept nogil:
    """The checksum of an IPv6 payload of at most 32 bytes, pseudo-header included (RFC 8200)."""
    cdef uint8_t whole[72]
    memset(whole, 0, sizeof(whole))
    memcpy(whole, ip + 8, 32)
    put16(whole + 34, length)
    whole[39] = ip[6]
    memcpy(whole + 40, payload, length)
    return wire_checksum(whole, 40 + length)


cdef uint32_t wire_build_announcement(uint8_t* frame, const uint8_t* source_mac, uint8_t family,
                                      const uint8_t* address, bint router) noexcept nogil:
    """Write the announcement of `address` to neighbours; the frame's length."""
    if family == 4:
        wire_build_arp(frame, source_mac, address)
        return ARP_FRAME_LENGTH
    wire_build_na(frame, source_mac, address, router)
    return NA_FRAME_LENGTH


cdef void wire_put_stamp(uint8_t* stamp, int64_t at_ns) noexcept nogil:
    """Write the STAMP_LENGTH bytes that tell when a frame was sent, CLOCK_REALTIME.

    They follow the IP packet, in Ethernet's padding: no length, checksum or digest covers them,
    every receiver of CARP ignores them, and a switch passes them on.
    """
    cdef int i
    memcpy(stamp, STAMP_MARK, 4)
    for i in range(8):
        stamp[4 + i] = (<uint64_t>at_ns >> (56 - 8 * i)) & 0xff


cdef int64_t wire_stamp(const Advertisement* a, const uint8_t* frame,
                        uint32_t length) noexcept nogil:
    """When the sender sent the frame, by its stamp within `length` bytes; 0: it has no stamp.

    Call it after wire_parse_ip, if that has set `a.carp`.
    """
    cdef uint32_t end = ETHERNET_LENGTH
    end += be16(a.ip + 2) if a.family == 4 else IPV6_LENGTH + be16(a.ip + 4)
    if length < end + STAMP_LENGTH or memcmp(frame + end, STAMP_MARK, 4):
        return 0
    return <int64_t>be64(frame + end + 4)


def parse(bytes frame) -> dict:
    """Parse one frame, for tests and tools: its fields and `verdict`, a word of VERDICT_WORDS.

    A frame that is not protocol 112 has the verdict "not_carp". Fields are present when the frame
    is long enough to hold them: family, source and destination as 4 or 16 bytes, counter and
    digest as bytes, vhid, advskew, advbase, demote, version as numbers.
    """
    cdef Advertisement a
    memset(&a, 0, sizeof(a))
    cdef Verdict verdict = wire_parse_ip(frame, <uint32_t>len(frame), &a)
    if verdict == NOT_CARP:
        return {"verdict": "not_carp"}
    if verdict == VERDICT_OK:
        verdict = wire_parse_carp(&a)
    fields = {"verdict": VERDICT_WORDS[<int>verdict]}
    if a.carp != NULL:
        size = 4 if a.family == 4 else 16
        fields.update(
            family=a.family, source=(<const char*>a.source)[:size],
            destination=(<const char*>a.destination)[:size],
            source_mac=(<const char*>a.source_mac)[:6], version=a.carp[0] >> 4,
            vhid=a.carp[1], advskew=a.carp[2], demote=a.carp[4], advbase=a.carp[5],
            counter=(<const char*>a.carp)[8:16], digest=(<const char*>a.carp)[16:36])
    return fields


def checksum(bytes data) -> int:
    """The Internet checksum of `data`."""
    return wire_checksum(data, <uint32_t>len(data))


def build_announcement(bytes source_mac, bytes address, *, bint router=False) -> bytes:
    """A gratuitous ARP (42 bytes) or unsolicited NA (86) for the 4- or 16-byte `address`."""
    cdef uint8_t frame[FRAME_ROOM]
    if len(source_mac) != 6 or len(address) not in (4, 16):
        raise ValueError("a MAC has 6 bytes and an address 4 or 16")
    length = wire_build_announcement(frame, source_mac, 4 if len(address) == 4 else 6, address,
                                     router)
    return (<const char*>frame)[:length]
