"""The reports in the engine's ring as Python objects."""

from libc.stdint cimport uint8_t

from carp_fast.engine._core cimport Report

cdef object report_object(const Report* report)
cdef bytes address_bytes(const uint8_t* address, uint8_t family)
