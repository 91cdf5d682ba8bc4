"""Frames of Ethernet, IPv4, IPv6, CARP, ARP and NA: parse to a verdict, build."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

cdef enum:
    ETHERNET_LENGTH = 14
    IPV4_LENGTH = 20
    IPV6_LENGTH = 40
    CARP_LENGTH = 36
    ADVERTISEMENT4_LENGTH = 70      # Ethernet + IPv4 + CARP
    ADVERTISEMENT6_LENGTH = 90
    ARP_FRAME_LENGTH = 42           # Ethernet + ARP; the driver pads to 60
    NA_FRAME_LENGTH = 86            # Ethernet + IPv6 + ICMPv6 with one option
    FRAME_ROOM = 96                 # the longest frame we build, rounded up
    PROTOCOL_CARP = 112
    FRAGMENT_HEADER = 44            # of IPv6: a next header
    STAMP_LENGTH = 12               # behind the IP packet: a mark, and when it was sent

cdef enum Verdict:
    VERDICT_OK
    BAD_LENGTH
    BAD_TTL
    BAD_SOURCE
    BAD_CHECKSUM
    VRRP
    BAD_VERSION
    BAD_TYPE
    BAD_VHID
    BAD_DESTINATION
    BAD_AUTH
    LOOP
    REPLAY
    VERDICTS                        # how many there are
    NOT_CARP                        # not a CARP frame: not counted

cdef struct Advertisement:
    uint64_t counter
    const uint8_t* ip
    const uint8_t* carp             # the 36-byte header inside the frame, or NULL
    uint8_t source[16]
    uint8_t destination[16]
    uint8_t source_mac[6]
    uint8_t family                  # 4 or 6
    uint8_t version
    uint8_t vhid
    uint8_t advskew
    uint8_t advbase
    uint8_t demote
    bint unicast                    # neither a group nor a broadcast: its source must be a peer
    bint vrrp_length                # the length of the payload matches its VRRPv2 address count

cdef inline bint wire_is_link_group6(const uint8_t* address) noexcept nogil:
    """Whether it is ff02::N, for an N from 1 to 255."""
    return address[15] != 0 and memcmp(
        address, b"\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0", 15) == 0


cdef Verdict wire_parse_ip(const uint8_t* frame, uint32_t length,
                           Advertisement* advertisement) noexcept nogil
cdef Verdict wire_parse_carp(Advertisement* advertisement) noexcept nogil
cdef void wire_build4(uint8_t* frame, const uint8_t* destination_mac, const uint8_t* source_mac,
                      const uint8_t* source, const uint8_t* destination) noexcept nogil
cdef void wire_build6(uint8_t* frame, const uint8_t* destination_mac, const uint8_t* source_mac,
                      const uint8_t* source, const uint8_t* destination) noexcept nogil
cdef void wire_build_carp(uint8_t* carp, uint8_t vhid, uint8_t advskew, uint8_t demote,
                          uint8_t advbase, uint64_t counter) noexcept nogil
cdef void wire_build_arp(uint8_t* frame, const uint8_t* source_mac,
                         const uint8_t* address) noexcept nogil
cdef void wire_build_na(uint8_t* frame, const uint8_t* source_mac, const uint8_t* address,
                        bint router) noexcept nogil
cdef uint32_t wire_build_announcement(uint8_t* frame, const uint8_t* source_mac, uint8_t family,
                                      const uint8_t* address, bint router) noexcept nogil
cdef uint16_t wire_checksum(const uint8_t* data, uint32_t length) noexcept nogil
cdef uint16_t wire_checksum6(const uint8_t* ip, const uint8_t* payload,
                             uint32_t length) noexcept nogil
cdef void wire_put_stamp(uint8_t* stamp, int64_t at_ns) noexcept nogil
cdef int64_t wire_stamp(const Advertisement* advertisement, const uint8_t* frame,
                        uint32_t length) noexcept nogil
