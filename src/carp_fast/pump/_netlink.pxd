"""Address changes over rtnetlink: encoded from templates, sent in batches, acknowledged."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef enum:
    CHANGES = 128               # address messages a system call
    MESSAGE_ROOM = 112          # one encoded message, IPv6 with lifetimes included
    ACKNOWLEDGEMENT_ROOM = 128
    DUMP_ROOM = 32768           # one piece of a dump: the most that the kernel puts in one
    FOUND_ROOM = 16384          # places for what a look has found, a power of two; half are used
    LOOK_PARTS = 64             # a look at more addresses than that is made in at most so many

cdef enum Found:                # whose an address is that an interface has or has not
    FOUND_NONE                  # nobody has it
    FOUND_OURS                  # it bears our mark
    FOUND_FOREIGN               # it does not
    FOUND_UNMARKED              # it is there, and this kernel keeps no marks
    FOUND_UNKNOWN               # nobody could say

cdef struct Template:           # one encoded message and where its variable parts stand
    uint8_t bytes[MESSAGE_ROOM]
    uint32_t length             # 0: none
    uint32_t address_at
    uint32_t local_at           # IPv4 carries the address twice; 0: once

cdef struct Change:
    int32_t ifindex
    int32_t error
    uint8_t family
    uint8_t prefixlen
    uint8_t added
    uint8_t sent                # the kernel has it, and answers if it fails
    uint8_t done                # it has answered
    uint8_t was_ours            # added in vain: it is there, and it bears our mark
    uint8_t address[16]

cdef struct FoundAddress:
    uint32_t look               # which look found it; any other: this place is free
    uint8_t family
    uint8_t prefixlen
    uint8_t marked
    uint8_t bytes[16]

cdef struct Netlink:
    int fd
    bint marks                  # the kernel keeps IFA_PROTO
    uint32_t sequence           # of the next message
    uint32_t count
    uint32_t used               # bytes of `out`
    Template adding[3]          # IPv4, IPv6, IPv6 that may be the source of other traffic
    Template removing[2]
    Change changes[CHANGES]
    uint32_t offsets[CHANGES + 1]
    uint8_t out[CHANGES * MESSAGE_ROOM]
    uint8_t answers[CHANGES][ACKNOWLEDGEMENT_ROOM]
    # What the last look has found: addresses of one interface, by a hash of them.
    int32_t looked_at           # its ifindex, 0: none
    uint32_t look
    uint32_t part               # of `parts`: addresses of the other parts are not known
    uint32_t parts
    FoundAddress found[FOUND_ROOM]
    uint8_t dump[DUMP_ROOM]
    # What this batch had to do about promote_secondaries, for its report.
    uint32_t promoted_count
    int32_t promoted[CHANGES]           # ifindexes where it was not 1
    int32_t promote_errors[CHANGES]     # errno of setting it, 0: it is 1 again

cdef void netlink_put(Netlink* netlink, bint added, int32_t ifindex, uint8_t family,
                      bint preferred, uint8_t prefixlen, const uint8_t* address) noexcept nogil
cdef void netlink_carry_out(Netlink* netlink) noexcept nogil
cdef Found netlink_whose(Netlink* netlink, int32_t ifindex, uint8_t family, uint8_t prefixlen,
                         const uint8_t* address) noexcept nogil
cdef int netlink_look(Netlink* netlink, int32_t ifindex, uint32_t part,
                      uint32_t parts) noexcept nogil
cdef Found netlink_found(const Netlink* netlink, uint8_t family, uint8_t prefixlen,
                         const uint8_t* address) noexcept nogil
cdef int netlink_template(Template* template, bytes encoded, bytes address) except -1
