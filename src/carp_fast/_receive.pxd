"""One frame heard: which virtual host it is for, whether it is genuine and new, what it means."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from carp_fast._core cimport Core
from carp_fast._wire cimport Verdict

cdef Verdict engine_receive(Core* core, uint16_t interface, const uint8_t* frame,
                            uint32_t length, int64_t arrived_ns) noexcept nogil
cdef void engine_foresee(Core* core, uint16_t interface, const uint8_t* frame,
                         uint32_t length) noexcept nogil
