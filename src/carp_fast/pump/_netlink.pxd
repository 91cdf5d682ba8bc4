"""The rtnetlink socket of address changes: its structs, and what its modules share."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef extern from "system.h" nogil:
    struct nlmsghdr:
        uint32_t nlmsg_len
        unsigned short nlmsg_type
        unsigned short nlmsg_flags
        uint32_t nlmsg_seq
    struct nlmsgerr:
        int error
        nlmsghdr msg
    struct nlattr:
        unsigned short nla_len
        unsigned short nla_type
    struct ifaddrmsg:
        unsigned char ifa_family
        unsigned char ifa_prefixlen
        unsigned int ifa_index
    struct rtmsg:
        unsigned char rtm_family
        unsigned char rtm_dst_len
        unsigned char rtm_table
        unsigned char rtm_protocol
        unsigned char rtm_scope
        unsigned char rtm_type

cdef enum:
    CHANGES = 128               # address messages per system call
    MESSAGE_ROOM = 112          # one encoded message, IPv6 with lifetimes included
    ACKNOWLEDGEMENT_ROOM = 128
    DUMP_ROOM = 32768           # one message of a dump: the kernel's maximum
    FOUND_ROOM = 16384          # places for the results of a look, a power of two; half are used
    LOOK_PARTS = 64             # a look at more addresses is made in parts, at most so many
    OWN_PROTOCOL = 112          # of our addresses and routes, as in net/interfaces.py
    ATTEMPTS = 3                # to send a message, or to finish a look uninterrupted

cdef enum Found:                # whether an interface has an address, and of which origin
    FOUND_NONE                  # it does not exist
    FOUND_OURS                  # it has our mark
    FOUND_FOREIGN               # it does not have our mark
    FOUND_UNMARKED              # it exists, and this kernel keeps no marks
    FOUND_UNKNOWN               # the look failed

cdef struct Template:           # one encoded message and the offsets of its variable parts
    uint8_t bytes[MESSAGE_ROOM]
    uint32_t length             # 0: none
    uint32_t address_at
    uint32_t local_at           # IPv4 has the address twice; 0: once

cdef struct Change:
    int32_t ifindex
    int32_t error
    uint8_t family
    uint8_t prefixlen
    uint8_t added
    uint8_t sent                # the kernel has it, and answers if it fails
    uint8_t done                # the answer has come
    uint8_t was_ours            # not added: it exists, with our mark
    uint8_t routed              # a local route, otherwise an address
    uint8_t address[16]

cdef struct FoundAddress:
    uint32_t look               # which look found it; of another look: this place is free
    uint8_t family
    uint8_t prefixlen
    uint8_t marked
    uint8_t bytes[16]

cdef struct Existing:           # the addresses and our routes of an interface as last read, hashed
    int32_t ifindex             # 0: none
    uint32_t look
    uint32_t part               # of `parts`: addresses of the other parts are unknown
    uint32_t parts
    uint32_t kept               # how many were found
    bint routes                 # our local routes were read, too
    FoundAddress found[FOUND_ROOM]

cdef struct Netlink:
    int fd
    bint marks                  # the kernel keeps IFA_PROTO
    uint32_t sequence           # of the last message, or the first of the last batch
    uint32_t count
    uint32_t used               # bytes of `out`
    Template adding[3]          # IPv4, IPv6, IPv6 that may be the source of other traffic
    Template removing[2]
    Change changes[CHANGES]
    uint32_t offsets[CHANGES + 1]
    uint8_t out[CHANGES * MESSAGE_ROOM]
    uint8_t answers[CHANGES][ACKNOWLEDGEMENT_ROOM]
    Existing existing           # for outcomes that need a look
    uint8_t dump[DUMP_ROOM]
    # Settings of promote_secondaries by this batch, for its report.
    uint32_t promoted_count
    int32_t promoted[CHANGES]           # ifindexes where it was not 1
    int32_t promote_errors[CHANGES]     # errno of setting it; 0: it was set to 1

cdef void begin_request(Netlink* netlink, nlmsghdr* header, size_t length, int kind,
                        int flags) noexcept nogil
cdef int send_message(Netlink* netlink, const void* data, size_t length) noexcept nogil
cdef const nlattr* attribute_in(const uint8_t* data, size_t length, int wanted) noexcept nogil
