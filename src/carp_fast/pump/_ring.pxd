"""The reader of a ring of frames that a BPF program writes (net/rings.py)."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    RING_FRAME = 110            # bytes kept of a frame: its headers have no more

cdef struct RingControl:        # numbers of slots, from the beginning on
    uint64_t head               # the next that a writer reserves
    uint64_t head_alone[7]
    uint64_t tail               # the next that the reader has not given back; it alone writes this
    uint64_t tail_alone[7]
    uint64_t full               # frames that found no slot
    uint64_t full_alone[7]
    uint32_t watching           # the next frame wakes the reader, and sets this to 0
    uint32_t watching_alone[15]

cdef struct RingSlot:
    uint32_t sequence           # written last: the number of the slot plus 1
    int32_t ifindex
    int64_t arrived_ns          # CLOCK_MONOTONIC
    uint16_t length             # of the whole frame; 0: it could not be read
    uint8_t frame[RING_FRAME]

cdef struct Ring:
    RingControl* control
    RingSlot* slots
    uint64_t mask
    uint64_t next               # the next slot that is read
    uint64_t end                # the slots reserved when reading began
    uint64_t lost               # frames that were overwritten or could not be read
    uint64_t told               # of control.full and `lost`, at the last call of ring_drops()
    # Of the map that is readable when the reader was woken; NULL: a socket is.
    uint64_t* taken
    const uint64_t* given

cdef int ring_open(Ring* ring, tuple memory) except -1
cdef void ring_wake_by(Ring* ring, size_t taken, size_t given) noexcept
cdef bint ring_take_waking(Ring* ring) noexcept nogil
cdef void ring_begin(Ring* ring) noexcept nogil
cdef void ring_give_back(Ring* ring) noexcept nogil
cdef const RingSlot* ring_next(Ring* ring) noexcept nogil
cdef bint ring_is_blocked(const Ring* ring) noexcept nogil
cdef uint32_t ring_drops(Ring* ring) noexcept nogil
cdef bint ring_watch(Ring* ring) noexcept nogil
cdef void ring_ignore(Ring* ring) noexcept nogil
