"""What must hold of the addresses in a simulated world."""

from libc.stdint cimport uint8_t, uint32_t

from carp_fast.engine._core cimport Report
from carp_fast.simulate._network cimport Machine, World

cdef void mark_dirty(Machine* machine, uint32_t slot) noexcept nogil
cdef void check_addresses(World* world, Machine* machine, uint32_t slot,
                          bint at_last) noexcept nogil
cdef bint is_loss(uint8_t reason) noexcept nogil
cdef void on_loss(World* world, Machine* machine, const Report* report) noexcept nogil
cdef void on_undemoted(World* world, Machine* machine, const Report* report) noexcept nogil
cdef void check_announcement(World* world, Machine* machine, uint32_t slot, uint32_t which,
                             const uint8_t* frame, uint32_t length) noexcept nogil
cdef void check_announced(World* world, Machine* machine, uint32_t slot) noexcept nogil
