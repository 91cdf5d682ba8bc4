"""Addresses that are not as they should be: retries, deadlines, results of checks.

A change that the kernel refused is tried again after a time that doubles. A MASTER that has had
none of its addresses for its deadline, or whose addresses are removed repeatedly, is demoted for a
while and resigns: one mechanism for both. The addresses of an interface are checked now and then;
only results that are not as they should be are passed to this module, so a check of correct
addresses changes nothing and is not recorded. Must not know what does the check, a socket or a
clock.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from carp_fast.engine._core cimport (
    ADDRESS_FOREIGN, ADDRESS_GONE, ADDRESS_RESTORED, Core, Interface, RESIGNED_HOLDING, LEAVING_NS,
    RESTORED_REFUSED, Report, TICK_NS, UNDEMOTED, address_deadline_ns, engine_ask,
    engine_plan_upkeep, engine_tell, engine_touch, leaving_at_ns, report_begin, report_end,
    engine_reschedule)
from carp_fast.engine._groups cimport group_review
from carp_fast.engine._recorder cimport (
    RECORD_FOUND, RECORD_UNDEMOTED, Record, record_input, record_output, record_turn_of,
    recorder_begin)
from carp_fast.engine._transitions cimport engine_event
from carp_fast.engine._vhid cimport (
    Address, ADDRESS_DEADLINE, ADDRESS_DEMOTED, ASKED, BACKUP, FAILED, FOREIGN, HELD, HOLDS_ROUTES,
    LOST, LOST_WITH_OURS, MASTER, ON_ADDRESS_LOST, REPLACES_ROUTES, RESIGN_AFTER_REMOVAL, RETIRED,
    ROUTED_ONCE, SECOND_NS, SEND_DEMOTED, TO_ADVERTISE_LAST, TO_RESIGN, vhid_same_address,
    VirtualHost)
from carp_fast.engine._wheel cimport NOBODY, wheel_pop

cdef enum:
    RETRIES_MAX = 10            # doublings of the wait: from 10 ms to 10 s
    RETRIES_AWAITED = 6         # how often removals before the end are tried: for 0.6 s
    LOSSES_MAX = 4              # doublings of a demotion: from 1 min to 16 min

cdef int64_t RETRY_NS = 10000000
cdef int64_t DEMOTED_NS = 60 * <int64_t>SECOND_NS
cdef int64_t VERIFY_NS = 60 * <int64_t>SECOND_NS        # between two checks of an interface
# An address found missing so soon after we removed another one was removed with that.
cdef int64_t WITH_OURS_NS = 2 * <int64_t>SECOND_NS


cdef bint wants_route(const VirtualHost* host, const Address* address) noexcept nogil:
    """Whether the address is to be added as a local route."""
    return host.configured.by_route and address.family == 4


cdef int wanted_change(const VirtualHost* host, const Address* address) noexcept nogil:
    """1: to be added, -1: to be removed, 0: as it should be, or its change has no outcome yet."""
    cdef bint wanted = (host.state == MASTER and host.configured.manage_addresses
                        and not address.flags & RETIRED)
    if address.flags & ASKED:
        return 0
    if wanted and address.flags & HELD:
        return -1 if address.routed and host.flags & REPLACES_ROUTES else 0
    if wanted:
        return 1
    return -1 if address.flags & HELD else 0


cdef void tell_address(Core* core, uint8_t kind, uint32_t slot, uint32_t which, uint64_t value,
                       int64_t now_ns) noexcept nogil:
    cdef Report* report = report_begin(core, kind, slot, now_ns)
    if report != NULL:
        report.detail = which
        report.value = value
        report_end(core)


# ------------------------------------------------------------------------- once more, and too long

cdef void resign(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Send the resignation: the addresses are removed, or their removal takes too long."""
    cdef VirtualHost* host = &core.hosts[slot]
    host.flags &= ~<uint32_t>RESIGN_AFTER_REMOVAL
    host.leaving_ns = 0
    engine_plan_upkeep(core, slot, now_ns)
    engine_ask(core, &core.advertise, slot, TO_RESIGN)


cdef void leave_on(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """The removal before a resignation has no outcome yet: advertise, or resign without it.

    Until the others know, the addresses must not be taken over: both hosts would have them. But
    they must not be kept from it for longer than LEAVING_NS, either.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    if leaving_at_ns(host) > now_ns:
        return
    if now_ns < host.leaving_ns + LEAVING_NS:
        host.answered_ns = now_ns
        engine_ask(core, &core.advertise, slot, TO_ADVERTISE_LAST)
        return
    if host.held or host.asked:
        engine_tell(core, RESIGNED_HOLDING, slot, max(host.held, host.asked), NULL, now_ns)
    resign(core, slot, now_ns)


cdef void upkeep_done(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """Every change of the host has its outcome: failed ones are tried again, at growing intervals.

    Starts or ends the time that a MASTER is without an address; a foreign address counts as one.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Address* address
    cdef uint32_t i
    cdef bint failed = False, there = False, planned
    for i in range(host.block.address_count):
        address = &host.block.addresses[i]
        if address.flags & FAILED and not wanted_change(host, address):
            address.flags &= ~<uint32_t>FAILED          # no longer wanted
            tell_address(core, ADDRESS_RESTORED if address.flags & HELD else ADDRESS_GONE, slot, i,
                         RESTORED_REFUSED, now_ns)
        failed |= address.flags & FAILED != 0
        there |= address.flags & (HELD | FOREIGN) != 0 and not address.flags & RETIRED
    planned = host.retry_at_ns != 0 or host.without_ns != 0
    host.retry_at_ns = 0
    if failed:
        host.retry_at_ns = now_ns + (RETRY_NS << host.retries)
        host.retries = min(host.retries + 1, RETRIES_MAX)
    else:
        host.retries = 0
    if there or host.state != MASTER or not host.configured.manage_addresses:
        host.without_ns = 0
        if host.state == MASTER and not failed and not host.failed_sends:
            host.losses = 0
    elif not host.without_ns:
        host.without_ns = now_ns
    if host.flags & SEND_DEMOTED and host.state != MASTER and not host.demoted_until_ns:
        engine_touch(core, slot, now_ns)
        record_turn_of(&core.recorder, slot, host.interface)
        demote_for_a_while(host, now_ns)
        planned = True
    if planned or host.retry_at_ns or host.without_ns:
        engine_plan_upkeep(core, slot, now_ns)


cdef bint upkeep_waits(const Core* core) noexcept nogil:
    """Whether the removal of an address is to be tried again soon."""
    cdef uint32_t slot
    cdef const VirtualHost* host
    if not core.upkeep.armed:
        return False
    for slot in range(core.slots):
        host = &core.hosts[slot]
        if (host.block != NULL and host.retry_at_ns and host.held and host.state != MASTER
                and host.retries <= RETRIES_AWAITED):
            return True
    return False


cdef void upkeep_expire(Core* core, int64_t now_ns) noexcept nogil:
    """Process all upkeep that is due up to `now_ns`; after engine_expire()."""
    cdef uint32_t slot
    cdef VirtualHost* host
    cdef int64_t at_ns
    while core.upkeep.armed:
        slot = wheel_pop(&core.upkeep, now_ns // TICK_NS)
        if slot == NOBODY:
            return
        host = &core.hosts[slot]
        if host.retry_at_ns and host.retry_at_ns <= now_ns:
            engine_touch(core, slot, now_ns)
            host.retry_at_ns = 0
            engine_ask(core, &core.change, slot, 0)
        if host.leaving_ns:
            engine_touch(core, slot, now_ns)
            leave_on(core, slot, now_ns)
        at_ns = address_deadline_ns(host)
        if at_ns and at_ns <= now_ns:
            upkeep_lose(core, slot, ADDRESS_DEADLINE, now_ns)
        elif host.demoted_until_ns and host.demoted_until_ns <= now_ns:
            undemote(core, slot, now_ns)
        engine_plan_upkeep(core, slot, now_ns)


cdef inline void demote_for_a_while(VirtualHost* host, int64_t now_ns) noexcept nogil:
    """Set the end of a demotion: each in a row lasts twice as long as the last one.

    Otherwise a host that preempts would disturb its virtual host every minute.
    """
    host.demoted_until_ns = now_ns + (DEMOTED_NS << host.losses)
    host.losses = min(host.losses + 1, LOSSES_MAX)


cdef void undemote(Core* core, uint32_t slot, int64_t now_ns) noexcept nogil:
    """A demotion has lasted long enough; whether sends succeed shows only once it is MASTER.

    One that became MASTER meanwhile, as nobody else did, stays demoted until they do.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef uint32_t over = ADDRESS_DEMOTED | (0 if host.state == MASTER else SEND_DEMOTED)
    engine_touch(core, slot, now_ns)
    host.demoted_until_ns = 0
    if not host.flags & over:
        record_turn_of(&core.recorder, slot, host.interface)
        return
    if core.recorder.records != NULL:
        record_output(&core.recorder, RECORD_UNDEMOTED, slot, host.interface, now_ns)
    host.flags &= ~over
    group_review(core, slot, now_ns)
    if host.state == MASTER:
        engine_reschedule(core, slot, now_ns)
    if report_begin(core, UNDEMOTED, slot, now_ns) != NULL:
        report_end(core)


cdef void upkeep_lose(Core* core, uint32_t slot, uint8_t reason, int64_t now_ns) noexcept nogil:
    """Demote a host that cannot hold its addresses for a while, and let a MASTER resign.

    `reason`: ADDRESS_LOST or ADDRESS_DEADLINE.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    if host.state != MASTER:
        return                                      # it has stepped down since
    engine_touch(core, slot, now_ns)
    demote_for_a_while(host, now_ns)
    host.lost_reason = reason
    host.flags |= ADDRESS_DEMOTED
    engine_event(core, slot, ON_ADDRESS_LOST, reason, now_ns)
    engine_plan_upkeep(core, slot, now_ns)


# ------------------------------------------------------------------------------------- checks

cdef void record_found(Core* core, uint32_t slot, const Address* address, There there,
                       int64_t now_ns) noexcept nogil:
    cdef Record* record
    if core.recorder.records == NULL:
        return
    recorder_begin(&core.recorder)
    engine_touch(core, slot, now_ns)
    record = record_input(&core.recorder, RECORD_FOUND, slot, core.hosts[slot].interface, now_ns)
    record.family, record.detail = address.family, <uint8_t>there
    memcpy(record.address, address.bytes, 16)


cdef bint held_elsewhere(const Core* core, uint32_t slot, uint32_t which) noexcept nogil:
    """Whether another virtual host of the interface holds the same address."""
    cdef const VirtualHost* host = &core.hosts[slot]
    cdef const VirtualHost* other
    cdef uint32_t vhid, at, i
    for vhid in range(256):
        at = core.index[<uint32_t>host.interface * 256 + vhid] - 1
        while at != NOBODY:
            other = &core.hosts[at]
            for i in range(other.block.address_count if at != slot else 0):
                if other.block.addresses[i].flags & HELD and vhid_same_address(
                        &other.block.addresses[i], &host.block.addresses[which]):
                    return True
            at = other.next_same
    return False


cdef inline bint went_with_ours(const VirtualHost* host, const Address* address,
                                const Interface* interface, int64_t now_ns) noexcept nogil:
    """Whether a missing address may have been removed with one that we removed ourselves.

    Only IPv4 has secondaries, in a subnet that holds more than one address.
    """
    return (address.family == 4 and address.prefixlen < 32 and not address.routed
            and now_ns - interface.removed_ns < WITH_OURS_NS
            and host.since_ns <= interface.removed_ns)


cdef void address_found(Core* core, uint32_t slot, uint32_t which, There there,
                        int64_t now_ns) noexcept nogil:
    """Handle the result of a check of one of a host's addresses. Does nothing if it is as expected.

    If our address is missing, it is added again; if a BACKUP has one of ours, it is removed; one
    that another program replaced is no longer ours. An address that is held by a route is missing
    if the route is, and an address that has a route besides gets rid of that.
    """
    cdef VirtualHost* host = &core.hosts[slot]
    cdef Address* address = &host.block.addresses[which]
    cdef const Interface* interface = &core.interfaces[host.interface]
    if address.flags & ASKED:                           # the outcome is newer than this
        return
    if there == THERE_NONE and address.flags & (HELD | FOREIGN):
        record_found(core, slot, address, there, now_ns)
        if address.flags & HELD:
            address.flags = <uint8_t>(address.flags & ~<uint32_t>HELD) | LOST
            host.held -= 1
            if went_with_ours(host, address, interface, now_ns):
                address.flags |= LOST_WITH_OURS
        engine_ask(core, &core.change, slot, 0)
    elif (there == THERE_OURS or there == THERE_ROUTE) and not address.flags & (
            HELD | RETIRED) and (
            host.state == MASTER or host.state == BACKUP) and (
            not held_elsewhere(core, slot, which)):
        record_found(core, slot, address, there, now_ns)
        if address.flags & FOREIGN:
            tell_address(core, ADDRESS_RESTORED, slot, which, RESTORED_REFUSED, now_ns)
        address.flags = <uint8_t>(address.flags & ~<uint32_t>(FOREIGN | LOST | LOST_WITH_OURS)
                                  ) | HELD
        address.routed = there == THERE_ROUTE
        host.flags |= HOLDS_ROUTES if address.routed else 0
        host.held += 1
        engine_ask(core, &core.change, slot, 0)
    elif there == THERE_ROUTE and address.flags & HELD and not address.routed:
        record_found(core, slot, address, there, now_ns)
        address.routed = 1                              # a former one of ours, besides the address
        host.flags |= HOLDS_ROUTES | REPLACES_ROUTES
        engine_ask(core, &core.change, slot, 0)
    elif there == THERE_FOREIGN and address.flags & HELD:
        record_found(core, slot, address, there, now_ns)
        address.flags &= ~<uint32_t>HELD
        host.held -= 1
        if host.state == MASTER:
            address.flags |= FOREIGN
            tell_address(core, ADDRESS_FOREIGN, slot, which, 0, now_ns)
        else:
            engine_ask(core, &core.change, slot, 0)


cdef uint32_t next_to_verify(Core* core, int64_t now_ns) noexcept nogil:
    """The next interface whose addresses are to be checked, or NOBODY. Each once a minute."""
    cdef Interface* interface
    cdef uint32_t number, found = NOBODY
    if not core.verify_at_ns or now_ns < core.verify_at_ns:
        return NOBODY
    core.verify_at_ns = 0
    for number in range(core.interface_count):
        interface = &core.interfaces[number]
        if found == NOBODY and interface.verify_at_ns and interface.verify_at_ns <= now_ns:
            interface.verify_at_ns = 0
            if interface.ifindex and interface.hosts:
                found = number
                interface.verify_at_ns = now_ns + VERIFY_NS
        if interface.verify_at_ns and (not core.verify_at_ns
                                       or interface.verify_at_ns < core.verify_at_ns):
            core.verify_at_ns = interface.verify_at_ns
    return found


cdef bint routes_of(const Core* core, uint32_t number) noexcept nogil:
    """Whether an interface's virtual hosts hold addresses by routes, or are to, or once were."""
    cdef uint32_t vhid, slot
    cdef const VirtualHost* host
    for vhid in range(256):
        slot = core.index[number * 256 + vhid] - 1
        while slot != NOBODY:
            host = &core.hosts[slot]
            if host.configured.by_route or host.flags & (ROUTED_ONCE | HOLDS_ROUTES):
                return True
            slot = host.next_same
    return False


cdef void verify_hosts(Core* core, uint32_t number, Finder find, void* where,
                       int64_t now_ns) noexcept nogil:
    """Check the addresses of an interface's virtual hosts against the existing ones."""
    cdef uint32_t vhid, slot, i
    cdef VirtualHost* host
    for vhid in range(256):
        slot = core.index[number * 256 + vhid] - 1
        while slot != NOBODY:
            host = &core.hosts[slot]
            if host.configured.manage_addresses or host.held:
                for i in range(host.block.address_count):
                    address_found(core, slot, i, find(where, slot, i), now_ns)
            slot = host.next_same
