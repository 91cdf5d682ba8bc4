"""What the filters of rings know of virtual hosts, and the frames that they refused."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._core cimport Core, Interface, MAX_INTERFACES
from carp_fast.engine._wire cimport VERDICTS

cdef enum:
    IFINDEX_PLACES = 65536          # of interfaces, by ifindex modulo this
    UNCOUNTED = 0xffffffff          # `hosts` of an interface to be compared with the table

cdef struct Heard:                  # an interface with a number of ours
    int32_t ifindex
    uint32_t unused
    uint64_t vhids[4]               # bits: a virtual host has this one, or had it a moment ago
    uint64_t refused[VERDICTS]      # frames, by verdict; the filters write this
    int64_t shown_ns[VERDICTS]      # when a frame was last passed on in place of being refused
    uint64_t room

cdef struct FilterMemory:           # shared with the filters; the rest is the pump's alone
    uint16_t numbers[IFINDEX_PLACES]    # our number of an interface plus 1; 0: it has none
    Heard heard[MAX_INTERFACES]

cdef struct Refusals:
    FilterMemory* memory            # NULL: no filter has it
    uint32_t hosts[MAX_INTERFACES]  # of each interface when its bits were last as the table
    uint32_t next                   # the interface that is compared next

cdef void refusals_map(Refusals* refusals, const Core* core, uint16_t number,
                       int32_t ifindex) noexcept nogil
cdef void refusals_expect(Refusals* refusals, const Core* core, uint16_t number,
                          uint8_t vhid) noexcept nogil
cdef void refusals_compare(Refusals* refusals, const Core* core) noexcept nogil
cdef void refusals_merge(const Refusals* refusals, Interface* copies, uint32_t first,
                         uint32_t count) noexcept nogil
cdef uint64_t refusals_count(const Refusals* refusals, const Core* core) noexcept nogil
