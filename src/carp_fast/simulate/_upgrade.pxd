"""An upgrade of a simulated machine: another engine goes on from the state of its engine."""

from carp_fast.engine._vhid cimport Block
from carp_fast.simulate._network cimport Machine, World

cdef Block* copied_block(World* world, const Block* block) noexcept nogil
cdef void upgrade_begin(World* world, Machine* machine) noexcept nogil
cdef void upgrade_if_due(World* world, Machine* machine) noexcept nogil
