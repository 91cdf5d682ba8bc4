"""The fields of a virtual host's state: one table, for recordings and for states handed over."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._absence cimport Absence
from carp_fast.engine._history cimport History
from carp_fast.engine._vhid cimport Configured, Source, SOURCES, VirtualHost

cdef enum:
    CHECKPOINT_ABSENCES = 2         # the last of those that count: rarely more within a wait
    FIELDS_MAX = 96                 # of one table
    NAME_ROOM = 40                  # of a name, a zero at its end included
    NOT_RECORDED = 0xffffffff       # of Field.recorded_at

# The state that decides what a host does next, without its keys, addresses and destinations.
cdef struct Checkpoint:
    int64_t at_ns
    uint32_t slot
    uint16_t interface
    uint8_t added                   # it is new: there is no state to assume
    uint8_t changed                 # its configuration is new: earlier records do not apply
    # of the engine
    int64_t wake_tick_ns
    int64_t owed_at_ns
    Absence absences[CHECKPOINT_ABSENCES]   # the last that count for it
    uint64_t seed
    uint32_t pace[3]                # of announcements, as Pace has it
    # of the interface
    int32_t ifindex
    uint8_t up
    uint8_t has_source
    uint8_t has_source6
    uint8_t forwards6
    uint8_t renamed
    uint8_t mac[6]
    uint8_t source[4]
    uint8_t source6[16]
    # as configured
    Configured configured
    uint8_t vhid
    uint8_t own_source4[4]
    uint8_t own_source6[16]
    # its state
    uint32_t flags
    uint32_t held
    uint8_t ordered[4]
    uint8_t state
    uint8_t reason
    uint8_t pending
    uint8_t master[2]
    uint8_t failed_sends
    uint8_t good_sends
    uint8_t repeat_in
    uint8_t announce_left
    uint8_t ties
    uint8_t absence_count
    uint8_t retries
    uint8_t losses
    uint8_t lost_reason
    uint64_t counter
    int64_t deadline_ns
    int64_t preempt_from_ns
    int64_t since_ns
    int64_t heard_ns[2]
    int64_t answered_ns
    int64_t announce_at_ns
    int64_t tie_since_ns
    int64_t judged_ns
    uint32_t duplicate_ms
    uint8_t duplicate_mac[6]
    History history
    uint64_t first_sent
    uint64_t stranger[2]
    uint32_t stranger_ms[2]
    uint32_t jitter_us
    int64_t settled_ns
    int64_t retry_at_ns
    int64_t without_ns
    int64_t demoted_until_ns
    int64_t leaving_ns
    int64_t failing_ns
    uint32_t announce_from
    Source sources[SOURCES]

cdef struct Field:
    char name[NAME_ROOM]
    uint32_t at                     # in the struct, bytes
    uint32_t width                  # of one element, bytes
    uint32_t count                  # of elements
    uint32_t recorded_at            # in a Checkpoint, or NOT_RECORDED

cdef struct Table:                  # the fields of one struct that are its state
    Field fields[FIELDS_MAX]
    uint32_t count

cdef Table HOST                     # of VirtualHost

cdef int put(Table* table, str name, size_t at, size_t size, size_t width=*) except -1
cdef list rows_of(const Table* table)
cdef void checkpoint_take(const VirtualHost* host, Checkpoint* checkpoint) noexcept nogil
cdef void checkpoint_put_back(VirtualHost* host, const Checkpoint* checkpoint) noexcept nogil
