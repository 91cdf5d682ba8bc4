"""Groups of virtual hosts: their members, and whether they are demoted."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from carp_fast.engine._core cimport Core

cdef void group_join(Core* core, uint32_t slot, uint16_t number, bint all,
                     int64_t now_ns) noexcept nogil
cdef void group_leave(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void group_review(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void group_place(Core* core, uint32_t slot, bint impeded) noexcept nogil
cdef void groups_decide(Core* core, int64_t now_ns) noexcept nogil
cdef void groups_tell(Core* core, int64_t now_ns) noexcept nogil
cdef void groups_end(Core* core) noexcept nogil
cdef uint8_t group_demotion(const Core* core, uint32_t slot) noexcept nogil
cdef uint32_t next_to_demote(Core* core, uint32_t* visits, int64_t now_ns) noexcept nogil
