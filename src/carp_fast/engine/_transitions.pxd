"""Events of virtual hosts and their effects, deadlines, absences of the pump."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._core cimport Core
from carp_fast.engine._vhid cimport Event, VirtualHost

cdef void engine_event(Core* core, uint32_t slot, Event event, uint8_t cause,
                       int64_t now_ns) noexcept nogil
cdef void advertise_again(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil
cdef void engine_try_ready(Core* core, uint32_t slot, uint8_t cause, int64_t now_ns) noexcept nogil
cdef void engine_absent(Core* core, int64_t since_ns, int64_t now_ns,
                        int64_t asleep_ns) noexcept nogil
cdef void engine_dropped(Core* core, int64_t since_ns, int64_t now_ns) noexcept nogil
cdef void engine_shown(const Core* core, VirtualHost* copy) noexcept nogil
cdef void engine_expire(Core* core, int64_t now_ns, int64_t heard_until_ns) noexcept nogil
