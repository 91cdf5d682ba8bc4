"""What must hold in a simulated world: at each step of a machine, and once faults are over."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._core cimport Report
from carp_fast.simulate._network cimport Frame, Machine, World
from carp_fast.simulate._rules cimport Expected
from carp_fast.engine._wire cimport Verdict

cdef void on_state(World* world, Machine* machine, const Report* report) noexcept nogil
cdef void on_family(World* world, Machine* machine, const Report* report) noexcept nogil
cdef void on_taken(World* world, Machine* machine, const Frame* frame, uint8_t state, bint keeps,
                   bint leaves, Expected expected, int64_t at_ns, int64_t arrived_ns) noexcept nogil
cdef void on_refused(World* world, Machine* machine, const Frame* frame, Verdict verdict,
                     Expected expected, int64_t at_ns) noexcept nogil
cdef bint keeps_backup(const Machine* machine, const Frame* frame) noexcept nogil
cdef void check_slot(World* world, uint32_t slot) noexcept nogil
cdef bint check_election(World* world, uint32_t slot) noexcept nogil
cdef void check_families(World* world, uint32_t slot) noexcept nogil
