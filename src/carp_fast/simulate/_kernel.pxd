"""The kernel of a simulated machine: address changes, and looks at existing addresses."""

from libc.stdint cimport uint32_t, uint64_t

from carp_fast.engine._upkeep cimport There
from carp_fast.pump._look cimport Look
from carp_fast.pump._turn cimport AddressChange
from carp_fast.simulate._network cimport Machine, World

cdef uint32_t requests_room(void* where) noexcept nogil
cdef void request_changes(World* world, Machine* machine, const AddressChange* changes,
                          uint32_t count) noexcept nogil
cdef void request_look(World* world, Machine* machine, const Look* look) noexcept nogil
cdef uint32_t take_changed(Machine* machine, AddressChange* changes, uint32_t count) noexcept nogil
cdef bint take_looked(Machine* machine, int* error) noexcept nogil
cdef void kernel_go(World* world, Machine* machine) noexcept nogil
cdef void kernel_works(World* world, Machine* machine, uint64_t life) noexcept nogil
cdef void kernel_forget(Machine* machine) noexcept nogil
cdef void drop_routes(World* world, Machine* machine, uint32_t segment) noexcept nogil
cdef There find_there(void* where, uint32_t slot, uint32_t which) noexcept nogil
