"""Advertisements that are due: the next host, and its frames, complete and signed."""

from libc.stdint cimport uint32_t

from carp_fast.engine._core cimport Core

cdef uint32_t next_advertisement(Core* core) noexcept nogil
