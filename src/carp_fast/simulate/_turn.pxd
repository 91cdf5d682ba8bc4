"""One turn of a simulated machine, in steps that take simulated time."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from carp_fast.simulate._network cimport Machine, Slot, World

cdef void machine_step(World* world, Machine* machine) noexcept nogil
cdef void machine_begin(World* world, Machine* machine) noexcept nogil
cdef void machine_forget(World* world, Machine* machine) noexcept nogil
cdef void order_push(World* world, Machine* machine, uint32_t kind, uint32_t subject,
                     int64_t value) noexcept nogil
cdef void forget_slot(Slot* slot) noexcept nogil
cdef uint64_t order_packed(uint32_t kind, uint32_t subject, int64_t value) noexcept nogil
