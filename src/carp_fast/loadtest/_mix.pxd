"""Frames of a load test: advertisements of virtual hosts, valid and invalid, announcements."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from carp_fast.engine._auth cimport TOGETHER, AuthKey
from carp_fast.loadtest._frames cimport FrameSource, Made
from carp_fast.loadtest._walk cimport Walk

cdef enum:                          # kinds, in the order of KIND_WORDS
    OK
    BAD_AUTH_KIND
    BAD_CHECKSUM_KIND
    BAD_TTL_KIND
    BAD_VERSION_KIND
    BAD_LENGTH_KIND
    REPLAY_KIND
    RESIGNATION
    CHANGED_SKEW
    VRRP_KIND
    ARP_KIND
    NA_KIND
    KINDS

cdef enum:                          # fields that walk, in the order of FIELD_WORDS
    STREAM                          # of a mix: which virtual host, which family
    SOURCE
    SOURCE6
    DESTINATION
    DESTINATION6
    SOURCE_MAC
    ADVBASE
    ADVSKEW
    DEMOTE
    COUNTER
    VLAN
    ANNOUNCEMENT                    # which address is announced
    FIELDS

cdef struct Stream:                 # a virtual host in one family
    AuthKey key
    uint8_t source[16]
    uint8_t destination[16]
    uint8_t source_mac[6]
    uint8_t destination_mac[6]
    uint8_t family
    uint8_t vhid
    uint8_t advbase
    uint8_t advskew
    uint8_t demote
    uint32_t first_flow             # that of its first source, destination and VLAN
    bint shares                     # the flows of an earlier stream, which look the same

cdef struct Flow:                   # frames of one source, destination, vhid and VLAN
    uint64_t sent                   # frames with a new counter
    uint64_t replayed               # frames with the counter of the last one
    uint64_t last                   # counter
    uint64_t short_ones             # frames without a counter for a receiver
    uint64_t vrrp

cdef struct Announcement:
    uint8_t address[16]
    uint8_t mac[6]
    uint8_t family
    bint router

cdef struct Head:                   # the fields of one frame, after all walks
    uint8_t source[16]
    uint8_t destination[16]
    uint8_t source_mac[6]
    uint8_t destination_mac[6]
    uint8_t advbase
    uint8_t advskew
    uint8_t demote
    uint64_t counter
    uint32_t flow                   # after `first_flow` of its stream

cdef struct Unsigned:               # a frame whose digest is not computed yet
    uint8_t* carp
    const Stream* stream
    int kind

cdef class Mix(FrameSource):
    cdef Stream* streams
    cdef Announcement* announcements
    cdef Flow* flows
    cdef uint8_t* order             # kinds, repeated in this order
    cdef Walk walks[KINDS][FIELDS]  # each kind has its own walks
    cdef uint32_t stream_count, announcement_count, flow_count, order_length, turn
    cdef uint64_t random
    cdef uint64_t made_of[KINDS]
    cdef bint tagged
    cdef Unsigned waiting[TOGETHER]
    cdef uint32_t waiting_count
    cdef list kept                  # owners of the walks' values
    cdef frozenset announced        # (MAC, address)
    cdef object macs, vlans         # values that walk, or None
    cdef uint32_t make_announcement(self, int kind, uint8_t* frame) noexcept nogil
    cdef uint32_t make_advertisement(self, int kind, uint8_t* frame, Made* made) noexcept nogil
    cdef void fill_head(self, Walk* walks, const Stream* stream, Head* head) noexcept nogil
    cdef uint32_t flow_at(self, const Stream* stream, uint32_t source, uint32_t destination,
                          uint32_t vlan) noexcept nogil
    cdef void fill_counter(self, int kind, Walk* walk, Head* head, Made* made) noexcept nogil
    cdef void sign(self, int kind, const Stream* stream, uint8_t* carp) noexcept nogil
    cdef take_weights(self, weights)
    cdef uint32_t longest_made(self)
    cdef take_streams(self, streams)
    cdef take_announcements(self, announcements)
    cdef take_walks(self, dict walks)
    cdef set_walk(self, int kind, int field, int order, values, uint64_t shift_every)
    cdef take_flows(self)
    cdef object vlan_at(self, uint32_t index)
    cdef tuple look_of(self, const Stream* stream)
    cdef uint32_t values_of(self, int field4, int field6, int family) noexcept nogil
