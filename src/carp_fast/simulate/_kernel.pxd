"""The kernel of a simulated machine: address changes, and looks at existing addresses."""

from libc.stdint cimport uint32_t

from carp_fast.engine._upkeep cimport There
from carp_fast.pump._turn cimport AddressChange
from carp_fast.simulate._network cimport Machine, World

cdef void change_addresses(World* world, Machine* machine, AddressChange* changes,
                           uint32_t count) noexcept nogil
cdef int look_at(World* world, Machine* machine, uint32_t number, uint32_t part,
                 uint32_t parts) noexcept nogil
cdef There find_there(void* where, uint32_t slot, uint32_t which) noexcept nogil
