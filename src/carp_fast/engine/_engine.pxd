"""The engine as a Python class: orders, reports, status."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._core cimport Core

cdef class Engine:
    cdef Core core
    cdef list asked             # changes without an answer: (slot, which, address, added, struct)
    cdef give(self, uint8_t kind, uint32_t slot, int64_t value, void* pointer, int64_t now_ns)
    cdef note_sent(self, uint32_t slot, errors, int64_t now_ns)
    cdef ask_for_changes(self, uint32_t slot, list actions)
    cdef list announcement(self, uint32_t slot)
    cdef uint32_t announced_frames(self, uint32_t slot)
    cdef used(self, uint32_t slot)
