"""Copies of the engine's structs as Python objects."""

from libc.stdint cimport int64_t

from carp_fast.engine._core cimport Interface
from carp_fast.engine._vhid cimport VirtualHost

cdef object host_copy(const VirtualHost* host)
cdef object explained_host(const VirtualHost* host, int64_t now_ns)
cdef dict interface_dict(const Interface* interface)
cdef list rejections_list(const Interface* interface)
