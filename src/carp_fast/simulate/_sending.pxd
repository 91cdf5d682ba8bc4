"""What must hold of the advertisements that a simulated machine sends."""

from libc.stdint cimport int64_t, uint32_t

from carp_fast.engine._core cimport Report
from carp_fast.simulate._network cimport Machine, World

cdef enum:
    BUSY_NS = 5000000           # a step that takes so long hinders sending

cdef void check_sending(World* world, Machine* machine, uint32_t slot) noexcept nogil
cdef void check_demotion(World* world, Machine* machine, uint32_t slot, int until) noexcept nogil
cdef void on_sent(World* world, Machine* machine, uint32_t slot, bint sent,
                  bint refused) noexcept nogil
cdef void on_sends(World* world, Machine* machine, const Report* report) noexcept nogil
cdef void note_hindered(Machine* machine, int64_t until_ns) noexcept nogil
