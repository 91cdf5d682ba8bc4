"""Counts of received frames: by verdict and by flow; how long frames took to arrive."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._auth cimport AuthKey
from carp_fast.loadtest._histogram cimport Histogram
from carp_fast.engine._wire cimport VERDICTS

cdef enum:
    WINDOW = 1024                   # counters below the highest that are kept one by one
    WINDOW_WORDS = 16
    FLOWS_MAX = 131072              # flows that are counted separately
    NO_VLAN = 0
    ANY_VLAN = -1
    VLANS = 4096
    OTHERS_MAX = 65536              # senders of frames without counters, counted separately

cdef enum OtherKind:                # of a frame without a counter; in the order of OTHER_WORDS
    OTHER_SHORT
    OTHER_VRRP
    OTHER_ARP
    OTHER_NA

cdef struct Other:                  # frames without counters that have all of this in common
    uint64_t received
    uint8_t source[16]              # its address; of an announcement its MAC
    uint8_t destination[16]         # of an announcement the address that it announces
    uint16_t vlan
    uint8_t vhid
    uint8_t family
    uint8_t kind

cdef struct Flow:                   # frames of one source, destination, vhid and VLAN
    uint64_t seen[WINDOW_WORDS]     # a bit for each counter of the window
    uint64_t lowest                 # counters since the last restart
    uint64_t highest
    uint64_t placed                 # counters since then, each once
    uint64_t received               # frames, whatever their counters
    uint64_t duplicates
    uint64_t reordered
    uint64_t strays
    uint64_t restarts
    uint64_t lost_before            # before the last restart
    uint64_t stray                  # the counter of the last one
    int64_t first_at_ns             # arrivals
    int64_t last_at_ns
    uint8_t source[16]
    uint8_t destination[16]
    uint16_t vlan                   # NO_VLAN: without a tag, or with a mere priority
    uint8_t family
    uint8_t vhid
    uint8_t strays_in_a_row

cdef struct Signer:                 # one form of a valid advertisement
    AuthKey key
    uint8_t address[16]             # the group that it is sent to, or the peer that sends it
    uint32_t next                   # of the same vhid, + 1; 0: none
    uint8_t family
    bint peer

cdef struct Totals:
    uint64_t verdicts[VERDICTS]
    uint64_t frames                 # all that arrived
    uint64_t gratuitous_arp
    uint64_t unsolicited_na
    uint64_t other                  # neither CARP nor an announcement
    uint64_t left_out               # frames whose flow does not fit into the table
    uint64_t before_sent            # frames whose stamp is in the future: the clocks differ
    uint64_t skipped[VLANS]         # frames of VLANs that are not counted, by VLAN
    int64_t first_at_ns
    int64_t last_at_ns

cdef class Tally:
    cdef Flow* flows
    cdef uint32_t* index
    cdef Other* others
    cdef uint32_t* others_index
    cdef uint32_t other_count, others_mask
    cdef Signer* signers
    cdef uint32_t flow_count, flows_max, index_mask, signer_count
    cdef uint32_t by_vhid[256]
    cdef int32_t vlan               # NO_VLAN, ANY_VLAN, or the one whose frames are counted
    cdef Totals totals
    cdef Histogram latency
    cdef void count(self, const uint8_t* frame, uint32_t length, uint32_t kept, uint16_t vlan,
                    int64_t at_ns) noexcept nogil
