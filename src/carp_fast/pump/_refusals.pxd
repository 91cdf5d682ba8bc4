"""What the filters of rings know of virtual hosts, and the frames that they refused."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._core cimport Core, Interface, MAX_INTERFACES
from carp_fast.engine._vhid cimport VirtualHost
from carp_fast.engine._wire cimport VERDICTS

cdef enum:
    IFINDEX_PLACES = 65536          # of interfaces, by ifindex modulo this
    VERDICTS_SHOWN = 9              # up to BAD_VHID: others need a virtual host
    GROUPS = 2                      # of each family
    UNCOUNTED = 0xffffffff          # `hosts` of an interface to be compared with the table

cdef struct Heard:                  # an interface with a number of ours
    int32_t ifindex
    uint32_t unused
    uint64_t vhids[4]               # bits: a virtual host has this one, or had it a moment ago
    uint64_t refused[VERDICTS]      # frames, by verdict; the filters write this
    int64_t shown_ns[VERDICTS_SHOWN]    # when a frame was last passed on in place of being refused
    # Groups in use, for programs that consume frames; 0: none. Others are left to the sockets.
    uint32_t groups4[GROUPS]
    uint64_t groups6[GROUPS]        # the second half, of those that begin with ff02::
    uint64_t room[2]

cdef struct FilterMemory:           # shared with the filters; the rest is the pump's alone
    uint16_t numbers[IFINDEX_PLACES]    # our number of an interface plus 1; 0: it has none
    Heard heard[MAX_INTERFACES]

cdef struct Refusals:
    FilterMemory* memory            # NULL: no filter has it
    uint32_t hosts[MAX_INTERFACES]  # of each interface when its bits were last as the table
    uint32_t next                   # the interface that is compared next

cdef void refusals_map(Refusals* refusals, const Core* core, uint16_t number,
                       int32_t ifindex) noexcept nogil
cdef void refusals_expect(Refusals* refusals, const Core* core,
                          const VirtualHost* host) noexcept nogil
cdef void refusals_expect_groups(Refusals* refusals, uint16_t number,
                                 const VirtualHost* host) noexcept nogil
cdef void refusals_compare(Refusals* refusals, const Core* core) noexcept nogil
cdef void refusals_merge(const Refusals* refusals, Interface* copies, uint32_t first,
                         uint32_t count) noexcept nogil
cdef uint64_t refusals_count(const Refusals* refusals, const Core* core) noexcept nogil
