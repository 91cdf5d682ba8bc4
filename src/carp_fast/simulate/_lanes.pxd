"""The lanes of a simulated machine's sockets: sorting of sources, and floods of strangers."""

from libc.stdint cimport uint32_t, uint64_t

from carp_fast.engine._core cimport Report
from carp_fast.simulate._network cimport Machine, World

cdef bint anything_waits(const Machine* machine) noexcept nogil
cdef void on_source(World* world, Machine* machine, const Report* report) noexcept nogil
cdef void source_is_sorted(World* world, Machine* machine, uint64_t packed) noexcept nogil
cdef void forget_sources(Machine* machine, uint32_t segment) noexcept nogil
cdef void forget_lanes(World* world, Machine* machine) noexcept nogil
cdef void begin_flood(World* world, Machine* machine, uint32_t frames,
                      uint32_t dropped) noexcept nogil
cdef void flood_goes_on(World* world, Machine* machine) noexcept nogil
