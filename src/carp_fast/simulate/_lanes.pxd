"""The lanes of a simulated machine's sockets: who is sorted into them, and floods of strangers."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from carp_fast.engine._receive cimport FrameHeard
from carp_fast.simulate._network cimport Arrival, Frame, Machine, Socket, World

cdef bint anything_waits(const Machine* machine) noexcept nogil
cdef int64_t arrived_at(World* world, Machine* machine, const Socket* socket,
                        const Arrival* arrival) noexcept nogil
cdef void find_source(World* world, Machine* machine, const Frame* frame, const FrameHeard* heard,
                      int64_t now_ns) noexcept nogil
cdef void source_is_sorted(World* world, Machine* machine, uint64_t packed) noexcept nogil
cdef void forget_sources(Machine* machine, uint32_t segment) noexcept nogil
cdef void forget_lanes(World* world, Machine* machine) noexcept nogil
cdef uint32_t note_drops(World* world, Machine* machine, uint8_t lane) noexcept nogil
cdef void begin_flood(World* world, Machine* machine, uint32_t frames,
                      uint32_t dropped) noexcept nogil
cdef void flood_goes_on(World* world, Machine* machine) noexcept nogil
