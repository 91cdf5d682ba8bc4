"""A look at the addresses of an interface, a part at a time: which is due, and what follows.

The engine schedules looks; a turn requests each part from the kernel and passes its outcome to this
module. Uses no socket, clock or file.
"""

from libc.errno cimport E2BIG, ENODEV
from libc.stdint cimport int64_t

from carp_fast.engine._core cimport Core, verify_all_soon, verify_soon
from carp_fast.engine._upkeep cimport Finder, next_to_verify, routes_of, verify_hosts
from carp_fast.engine._wheel cimport NOBODY

cdef enum:
    LOOK_PARTS = 64             # a look at many addresses is made in parts, at most so many

cdef int64_t LOOK_AGAIN_NS = 1000000000         # after a look that failed


cdef bint look_due(Core* core, Look* look, int64_t now_ns) noexcept nogil:
    """Whether a part of a look is to be requested; begins the next look that is due."""
    if look.number == NOBODY:
        look.number = next_to_verify(core, now_ns)
        if look.number == NOBODY:
            return False
        look.ifindex = core.interfaces[look.number].ifindex
        look.part, look.parts, look.asked = 0, 1, False
        look.routes = ROUTES_NONE
        if routes_of(core, look.number):
            look.routes = (ROUTES_DUE if core.interfaces[look.number].routes_due
                           else ROUTES_PERIODIC)
        core.interfaces[look.number].routes_due = 0
    return not look.asked


cdef void look_taken(Core* core, Look* look, int error, Finder find, void* where,
                     int64_t now_ns) noexcept nogil:
    """Check the virtual hosts of an interface against the addresses that it has."""
    look.asked = False
    if look.ifindex != core.interfaces[look.number].ifindex:
        error = ENODEV                              # another one has its number: look at that soon
        verify_all_soon(core, look.number, now_ns)
    if error == E2BIG and look.parts < LOOK_PARTS:
        look.part, look.parts = 0, look.parts * 2
    elif error:                                     # it is gone, or looked at again soon
        if error != ENODEV:
            core.interfaces[look.number].routes_due |= look.routes == ROUTES_DUE
            verify_soon(core, look.number, now_ns + LOOK_AGAIN_NS)
        look.number = NOBODY
    else:
        verify_hosts(core, look.number, find, where, now_ns)
        look.part += 1
        if look.part == look.parts:
            look.number = NOBODY
