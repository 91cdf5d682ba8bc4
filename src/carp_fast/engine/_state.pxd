"""The state of an engine as one flat array, with the table of its fields."""

from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from carp_fast.engine._core cimport Core
from carp_fast.engine._fields cimport FIELDS_MAX
from carp_fast.engine._tables cimport Pumped, SECTIONS, Section

cdef enum:
    SOURCES_APART = 256             # a source is of: its host's place, times this, plus its own
    NO_FIELD = 0xffffffff           # of a state without a field

cdef struct Run:                    # of bytes, copied at once
    uint32_t record_at
    uint32_t struct_at
    uint32_t length

cdef struct Part:                   # the records of one kind, each begins with a number
    uint8_t* bytes                  # ... what it is of: an interface, a slot, a place in `host`
    uint64_t count
    uint32_t stride
    uint32_t run_count
    Run runs[FIELDS_MAX]

cdef class State:
    cdef Py_buffer view
    cdef bint held                  # `view` is to be given back
    cdef Part parts[SECTIONS]
    cdef list rows
    cdef int read_head(self) except -1
    cdef int read_rows(self, uint64_t at, uint32_t count) except -1

cdef inline uint32_t part_of_number(const Part* part, uint64_t which) noexcept nogil:
    """What a record is of."""
    return (<const uint32_t*>(part.bytes + which * part.stride))[0]


cdef inline const uint8_t* part_record(const Part* part, uint64_t which) noexcept nogil:
    return part.bytes + which * part.stride


cdef inline uint8_t byte_in(const uint8_t* record, uint32_t at) noexcept nogil:
    """A byte of a record, as part_field() has found it; a field that is missing is 0."""
    return 0 if at == NO_FIELD else record[at]


cdef inline uint16_t short_in(const uint8_t* record, uint32_t at) noexcept nogil:
    """The same with two bytes."""
    cdef uint16_t value = 0
    if at != NO_FIELD:
        memcpy(&value, record + at, sizeof(value))
    return value


cdef inline uint32_t word_in(const uint8_t* record, uint32_t at) noexcept nogil:
    """The same with four bytes."""
    cdef uint32_t value = 0
    if at != NO_FIELD:
        memcpy(&value, record + at, sizeof(value))
    return value


cdef void part_get(const Part* part, uint64_t which, void* to) noexcept nogil
cdef uint32_t part_field(const Part* part, size_t struct_at) noexcept nogil
cdef uint64_t state_size(const Core* core) noexcept
cdef int64_t state_write(const Core* core, const Pumped* pumped, buffer) except -1
