"""Frames heard: the virtual host each is for, whether it is genuine and new, its effect."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from carp_fast.engine._core cimport Core
from carp_fast.engine._wire cimport Verdict

cdef struct FrameHeard:
    const uint8_t* bytes
    int64_t arrived_ns
    uint32_t length
    uint16_t interface              # our number of the interface where it was heard
    uint8_t verdict                 # the result of engine_receive_many()

# Called before and after a batch's frame `which` takes effect; after it the verdict is set.
ctypedef void (*Onlooker)(void* where, uint32_t which, bint over) noexcept nogil

cdef Verdict engine_receive(Core* core, const FrameHeard* frame) noexcept nogil
cdef uint32_t engine_receive_many(Core* core, FrameHeard* frames, uint32_t count,
                                  Onlooker onlooker, void* where) noexcept nogil
