"""What no engine can have written into a state."""

from carp_fast.engine._state cimport Part
from carp_fast.engine._vhid cimport VirtualHost

cdef str flaw_of_host(const VirtualHost* was)
cdef int expect_parts(const Part* parts) except -1
cdef int expect_records(const Part* parts) except -1
