"""Sources of a flood's frames: the interface of all makers of frames, and a recording."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

cdef enum:
    KINDS_MAX = 12
    NO_FLOW = 0xffffffff

cdef struct Made:                   # of a frame that was made, for sending it or giving it back
    uint32_t flow                   # of its counter, or NO_FLOW
    uint32_t length
    uint8_t kind                    # an index of `kinds`
    bint replay                     # of a flow, with a counter that it has sent before

cdef class FrameSource:
    cdef readonly tuple kinds       # words, in the order of Made.kind
    cdef readonly uint32_t longest  # bytes of the longest frame
    cdef readonly uint64_t stamped  # length of the stamp behind a frame: 0 or 12 bytes
    cdef bint make(self, uint8_t* frame, Made* made) noexcept nogil
    cdef void finish(self) noexcept nogil
    cdef void give_back(self, const Made* made) noexcept nogil

cdef class Recording(FrameSource):
    cdef uint8_t* data
    cdef uint64_t* starts           # of each frame in `data`, and the end of the last one
    cdef int64_t* at_ns             # from the first one
    cdef readonly uint32_t frames
    cdef readonly uint32_t times
    cdef readonly int64_t gap_ns    # from the last frame to the first of the next repetition
    cdef uint32_t next
    cdef uint32_t done              # complete repetitions
    cdef int64_t due_ns(self, uint64_t number) noexcept nogil
