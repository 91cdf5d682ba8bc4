"""Frames of Ethernet, IPv4, CARP and ARP: parse to a verdict, build.

Bytes in, a verdict or bytes out. Knows no virtual host, key, socket or clock: what depends on
configuration (unknown vhid, destination, digest, loop, replay) is judged by _engine.pyx with the
verdicts named here. Layout: ip_carp.h of the BSDs; RFC 791, RFC 826.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

# One word for each rejection, in the order of the checks: counters, metrics and logs use these.
VERDICT_WORDS = ("ok", "bad_length", "bad_ttl", "bad_source", "bad_checksum", "vrrp",
                 "bad_version", "bad_type", "bad_vhid", "bad_destination", "bad_auth", "loop",
                 "replay")
assert len(VERDICT_WORDS) == VERDICTS


cdef inline uint16_t be16(const uint8_t* p) noexcept nogil:
    return <uint16_t>(p[0] << 8 | p[1])


cdef inline uint64_t be64(const uint8_t* p) noexcept nogil:
    cdef uint64_t x = 0
    cdef int i
    for i in range(8):
        x = x << 8 | p[i]
    return x


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


cdef Verdict wire_parse(const uint8_t* frame, uint32_t length,
                        Advertisement* a) noexcept nogil:
    """Judge a frame as far as it can be judged without configuration, and fill `a`.

    `a` is whole when the verdict is VERDICT_OK; for VRRP with an intact header too. The checks
    run in the order of the Verdict enum. A frame of another protocol is NOT_CARP.
    """
    cdef const uint8_t* ip = frame + ETHERNET_LENGTH
    cdef uint32_t header, total
    if length < ETHERNET_LENGTH + IPV4_LENGTH or be16(frame + 12) != 0x0800:
        return NOT_CARP
    if ip[0] >> 4 != 4 or ip[9] != PROTOCOL_CARP:
        return NOT_CARP
    header = (ip[0] & 15) * 4
    total = be16(ip + 2)
    if header < IPV4_LENGTH or total > length - ETHERNET_LENGTH or total < header:
        return BAD_LENGTH
    if be16(ip + 6) & 0x3fff:                       # more fragments, or an offset
        return BAD_LENGTH
    if total - header < CARP_LENGTH:
        return VRRP if is_short_vrrp(ip + header, total - header) else BAD_LENGTH
    a.carp = ip + header
    a.family = 4
    a.vrrp_length = total - header == 16 + 4 * <uint32_t>a.carp[3]
    memcpy(a.source_mac, frame + 6, 6)
    memset(a.source, 0, 16)
    memset(a.destination, 0, 16)
    memcpy(a.source, ip + 12, 4)
    memcpy(a.destination, ip + 16, 4)
    if ip[8] != 255:
        return BAD_TTL
    if wire_checksum(ip, header):
        return BAD_CHECKSUM
    return parse_carp(a)


cdef Verdict parse_carp(Advertisement* a) noexcept nogil:
    """Judge the 36 bytes at `a.carp`. Version 3 passes as OK: only a digest tells it from VRRP."""
    cdef const uint8_t* carp = a.carp
    a.version = carp[0] >> 4
    a.vhid = carp[1]
    a.advskew = carp[2]
    a.demote = carp[4]
    a.advbase = carp[5]
    a.counter = be64(carp + 8)
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
    """Write Ethernet and IPv4 of an advertisement: 34 bytes that stay; TOS 0x10, DF, TTL 255."""
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


def parse(bytes frame) -> dict:
    """Parse one frame, for tests and tools: its fields and `verdict`, a word of VERDICT_WORDS.

    A frame that is not protocol 112 over IPv4 has the verdict "not_carp". Fields are present
    when the frame is long enough to hold them: source and destination as 4 bytes, counter and
    digest as bytes, vhid, advskew, advbase, demote, version as numbers.
    """
    cdef Advertisement a
    memset(&a, 0, sizeof(a))
    cdef Verdict verdict = wire_parse(frame, <uint32_t>len(frame), &a)
    if verdict == NOT_CARP:
        return {"verdict": "not_carp"}
    fields = {"verdict": VERDICT_WORDS[<int>verdict]}
    if a.carp != NULL:
        fields.update(
            source=(<const char*>a.source)[:4], destination=(<const char*>a.destination)[:4],
            source_mac=(<const char*>a.source_mac)[:6], version=a.carp[0] >> 4,
            vhid=a.carp[1], advskew=a.carp[2], demote=a.carp[4], advbase=a.carp[5],
            counter=(<const char*>a.carp)[8:16], digest=(<const char*>a.carp)[16:36])
    return fields


def checksum(bytes data) -> int:
    """The Internet checksum of `data`."""
    return wire_checksum(data, <uint32_t>len(data))


def build_arp(bytes source_mac, bytes address) -> bytes:
    """A gratuitous ARP frame (42 bytes) for the 4-byte `address` held by the 6-byte MAC."""
    cdef uint8_t frame[42]
    if len(source_mac) != 6 or len(address) != 4:
        raise ValueError("a MAC has 6 bytes and an IPv4 address 4")
    wire_build_arp(frame, source_mac, address)
    return (<const char*>frame)[:ARP_FRAME_LENGTH]
