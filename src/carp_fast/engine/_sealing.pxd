"""Advertisements that are due: the next host, and its frames, complete and signed."""

from libc.stdint cimport uint32_t

from carp_fast.engine._auth cimport Signature, TOGETHER
from carp_fast.engine._core cimport Core

cdef struct Sealing:            # frames that lack only digest and checksum
    Signature[TOGETHER] signatures
    uint32_t count              # 0 at the beginning

cdef uint32_t next_advertisement(Core* core, Sealing* sealing, uint32_t room) noexcept nogil
cdef void sealing_end(Sealing* sealing) noexcept nogil
