"""What must hold in a simulated world: at each step of a machine, and once faults are over."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast._core cimport Report
from carp_fast._simulator_network cimport Frame, Machine, World

cdef void mark_dirty(Machine* machine, uint32_t slot) noexcept nogil
cdef bint keeps_backup(const Machine* machine, const Frame* frame) noexcept nogil
cdef void on_state(World* world, Machine* machine, const Report* report) noexcept nogil
cdef void check_sending(World* world, Machine* machine, uint32_t slot,
                        const uint8_t* carp) noexcept nogil
cdef void check_addresses(World* world, Machine* machine, uint32_t slot) noexcept nogil
cdef void check_slot(World* world, uint32_t slot) noexcept nogil
cdef void check_election(World* world, uint32_t slot) noexcept nogil
