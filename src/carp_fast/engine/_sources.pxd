"""The sources that a virtual host hears: their places and counters."""

from libc.stdint cimport int64_t, uint32_t

from carp_fast.engine._core cimport Core
from carp_fast.engine._vhid cimport Source, VirtualHost
from carp_fast.engine._wire cimport Advertisement

cdef uint32_t source_known(const VirtualHost* host, const Advertisement* heard) noexcept nogil
cdef uint32_t source_place(VirtualHost* host, const Source* new, int64_t now_ns) noexcept nogil
cdef bint source_replays(Core* core, uint32_t slot, Source* source, const Advertisement* heard,
                         bint own, int64_t arrived_ns) noexcept nogil
