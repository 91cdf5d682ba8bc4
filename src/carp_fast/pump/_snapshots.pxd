"""Copies that the pump makes for Python: hosts, interfaces, records."""

from libc.stdint cimport uint32_t

from carp_fast.engine._core cimport HostsCopy, Interface
from carp_fast.engine._recorder cimport RecordCopy

cdef class Snapshot:
    cdef HostsCopy copy
    cdef Interface* of_interfaces
    cdef uint32_t count
    cdef uint32_t first

cdef class Records:
    cdef RecordCopy copy
