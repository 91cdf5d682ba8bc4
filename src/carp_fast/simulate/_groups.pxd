"""Groups as the world sees them: whether each machine demotes them rightly."""

from libc.stdint cimport uint32_t

from carp_fast.engine._core cimport Report
from carp_fast.simulate._network cimport Machine, Slot, World

cdef void note_link(Slot* known, const Report* report) noexcept nogil
cdef void on_group(World* world, Machine* machine, const Report* report) noexcept nogil
cdef void check_group(World* world, Machine* machine, uint32_t slot) noexcept nogil
cdef void check_unsplit(World* world) noexcept nogil
