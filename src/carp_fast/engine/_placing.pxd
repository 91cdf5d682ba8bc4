"""The state of another engine, placed in this one."""

from libc.stdint cimport int64_t

from carp_fast.engine._core cimport Core
from carp_fast.engine._state cimport State
from carp_fast.engine._tables cimport Pumped

cdef object state_place(Core* core, State state, slots, interfaces, int64_t now_ns)
cdef int pumped_get(State state, Pumped* pumped) except -1
