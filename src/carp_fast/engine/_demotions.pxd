"""Demotions by order, and those of groups: carried out and recorded."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from carp_fast.engine._core cimport Core

cdef void demote(Core* core, uint32_t slot, uint8_t by, int64_t amount, bint hard,
                 int64_t now_ns) noexcept nogil
cdef void join(Core* core, uint32_t slot, uint16_t group, bint all, int64_t now_ns) noexcept nogil
cdef void groups_expire(Core* core, int64_t now_ns) noexcept nogil
