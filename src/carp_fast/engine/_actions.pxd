"""The engine's pending actions: advertisements, address changes, announcements."""

from libc.stdint cimport int64_t, uint32_t

from carp_fast.engine._core cimport Core
from carp_fast.engine._vhid cimport Address, VirtualHost

cdef void advertisement_sent(Core* core, uint32_t slot, uint32_t failures, int error,
                             int64_t now_ns) noexcept nogil
cdef uint32_t next_change(Core* core) noexcept nogil
cdef void change_asked(Core* core, uint32_t slot, uint32_t which) noexcept nogil
cdef uint32_t take_asked(Core* core, uint32_t slot, uint32_t which,
                         const Address* asked) noexcept nogil
cdef void address_changed(Core* core, uint32_t slot, uint32_t which, bint added, bint routed,
                          int error, int64_t now_ns) noexcept nogil
cdef void addresses_done(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef uint32_t announcement_until(const Core* core, const VirtualHost* host) noexcept nogil
cdef void announcement_pauses(Core* core, uint32_t slot, uint32_t at) noexcept nogil
cdef uint32_t next_announcement(Core* core, int64_t now_ns) noexcept nogil
cdef void announced(Core* core, uint32_t slot) noexcept nogil
cdef bint announcement_failed(Core* core, uint32_t slot, uint32_t at, int error,
                              int64_t now_ns) noexcept nogil
cdef uint32_t announcement_frames(const VirtualHost* host) noexcept nogil
cdef void plan_announcement(VirtualHost* host, int64_t now_ns) noexcept nogil
cdef void begin_announcing(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef bint nothing_to_send(const Core* core) noexcept nogil
cdef bint nothing_to_do(const Core* core) noexcept nogil
cdef bint may_release(const VirtualHost* host) noexcept nogil
