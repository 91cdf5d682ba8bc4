"""Address changes over rtnetlink: encoded from templates, sent in batches, acknowledged."""

from libc.stdint cimport int32_t, uint8_t, uint32_t

cdef enum:
    CHANGES = 128               # address messages a system call
    MESSAGE_ROOM = 112          # one encoded message, IPv6 with lifetimes included
    ACKNOWLEDGEMENT_ROOM = 128

cdef struct Template:           # one encoded message and where its variable parts stand
    uint8_t bytes[MESSAGE_ROOM]
    uint32_t length             # 0: none
    uint32_t address_at
    uint32_t local_at           # IPv4 carries the address twice; 0: once

cdef struct Change:
    uint32_t slot
    uint32_t which
    int32_t error
    uint8_t added
    uint8_t done
    uint8_t sent                # how often

cdef struct Netlink:
    int fd
    uint32_t sequence           # of the first change of this batch
    uint32_t count
    uint32_t used               # bytes of `out`
    Template adding[3]          # IPv4, IPv6, IPv6 that may be the source of other traffic
    Template removing[2]
    Change changes[CHANGES]
    uint32_t offsets[CHANGES + 1]
    uint8_t out[CHANGES * MESSAGE_ROOM]
    uint8_t answers[CHANGES][ACKNOWLEDGEMENT_ROOM]

cdef void netlink_put(Netlink* netlink, uint32_t slot, uint32_t which, bint added,
                      int32_t ifindex, uint8_t family, bint preferred, uint8_t prefixlen,
                      const uint8_t* address) noexcept nogil
cdef void netlink_carry_out(Netlink* netlink) noexcept nogil
cdef bint send_open(Netlink* netlink, bint ask_all) noexcept nogil
cdef int netlink_template(Template* template, bytes encoded, bytes address) except -1
