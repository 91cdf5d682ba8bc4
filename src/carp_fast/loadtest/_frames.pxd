"""What a flood sends comes from here: the interface of all makers of frames, and a recording."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    KINDS_MAX = 12
    NO_FLOW = 0xffffffff

cdef struct Made:                   # of a frame that was made, for who sends it or gives it back
    uint32_t flow                   # whose counter it took, or NO_FLOW
    uint32_t length
    uint8_t kind                    # an index of `kinds`
    bint replay                     # of a flow, with a counter that it had sent

cdef class FrameSource:
    cdef readonly tuple kinds       # words, in the order of Made.kind
    cdef readonly uint32_t longest  # bytes of the longest frame
    cdef readonly uint64_t stamped  # bytes behind a frame that say when it was sent: 0 or 12
    cdef bint make(self, uint8_t* frame, Made* made) noexcept nogil
    cdef void finish(self) noexcept nogil
    cdef void give_back(self, const Made* made) noexcept nogil

cdef class Recording(FrameSource):
    cdef uint8_t* data
    cdef uint64_t* starts           # of each frame in `data`, and the end of the last one
    cdef int64_t* at_ns             # from the first one
    cdef readonly uint32_t frames
    cdef readonly uint32_t times
    cdef readonly int64_t gap_ns    # from the last frame to the first of the next time
    cdef uint32_t next
    cdef uint32_t done              # whole times
    cdef int64_t due_ns(self, uint64_t number) noexcept nogil
