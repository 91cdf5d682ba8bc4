"""The kernel of a simulated machine: address changes, and looks at what there is."""

from carp_fast.simulate._network cimport Machine, World

cdef bint change_addresses(World* world, Machine* machine) noexcept nogil
cdef void verify_addresses(World* world, Machine* machine) noexcept nogil
