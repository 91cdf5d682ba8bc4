"""What must hold of the advertisements that a simulated machine sends: who, what, and when.

A MASTER sends, in time; a host that stepped down to a faster one once more, one that resigned its
resignation; any other nothing. "In time" is what the last advertisement promised, as long as the
machine is not stopped, nor busy with something else for long: no order may put it off. What a full
queue refused follows in the next tick, then after 2, 4, 8, ... of them. A host whose sends all fail
for an interval is demoted, and no other. Knows no rule of election.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from carp_fast.engine._core cimport LEAVING_NS
from carp_fast.simulate._network cimport (
    Machine, OUR_ROUTE, OURS, QUIET, RESIGNED_LATE, RESIGNED_WITH_ADDRESSES, SENT_BY_BACKUP,
    SENT_LATE, SENT_OLD_COUNTER, SENT_WRONG_PRIORITY, Slot, World, broken, machine_now,
    machine_number, DEMOTED_WRONGLY, DEMOTION_UNEQUAL, GROUP_KEPT)
from carp_fast.simulate._rules cimport (
    rule_advskew, rule_demote, rule_demoted_by, rule_interval_ns, rule_send)
from carp_fast.engine._core cimport Report, SENDS_FAILING, SENDS_RECOVERED
from carp_fast.engine._vhid cimport (
    BY_LINK, MASTER, Output, SECOND_NS, SEND_DEMOTED, vhid_demoted_by, VirtualHost)

cdef int64_t LATE_NS = 50 * 1000000             # for ticks and turns
cdef int64_t TICK_NS = 10 * 1000000             # of a pump, the longest
cdef uint32_t FAILURES = 3                      # the fewest that demote a host


cdef void note_hindered(Machine* machine, int64_t until_ns) noexcept nogil:
    """The machine could not send in time until then, by its CLOCK_MONOTONIC."""
    machine.hindered_ns = until_ns


cdef void check_sending(World* world, Machine* machine, uint32_t slot) noexcept nogil:
    """Check what is sent: a MASTER's in time, one last after stepping down, none of a BACKUP.

    Every output has the same fields, as configured and demoted, and a counter of its own.
    """
    cdef Slot* known = &machine.slots[slot]
    cdef VirtualHost* host = &machine.core.hosts[slot]
    cdef uint32_t i, number = machine_number(world, machine)
    cdef const Output* output
    cdef const uint8_t* carp = host.block.outputs[0].frame + host.block.outputs[0].carp_at
    cdef bint resigns = carp[2] == 255 and carp[5] == 255
    cdef int64_t now_ns = machine_now(world, machine)
    cdef uint64_t counter
    if resigns:
        if not known.owes_resignation:
            broken(world, SENT_BY_BACKUP, number, slot, carp[5] * 256 + carp[2])
        known.owes_resignation = False
        if (not known.tries_again and now_ns - known.leaving_ns > LEAVING_NS + LATE_NS
                and machine.away_ns < known.leaving_ns - machine.origin_ns):
            broken(world, RESIGNED_LATE, number, slot, now_ns - known.leaving_ns)
        known.owed_resignation = True
        for i in range(host.block.address_count):
            if (known.kernel[i] & (OURS | OUR_ROUTE) and not known.refused >> i & 1
                    and not known.tries_again and now_ns - known.leaving_ns < LEAVING_NS):
                broken(world, RESIGNED_WITH_ADDRESSES, number, slot, i)
    elif host.state != MASTER:
        if not known.owes_last and not known.owes_resignation:
            broken(world, SENT_BY_BACKUP, number, slot, carp[5] * 256 + carp[2])
        known.owes_last = known.owed_resignation = False
    elif known.steps_down:
        broken(world, GROUP_KEPT, number, slot, carp[2])
    elif is_late(world, machine, slot, now_ns):
        broken(world, SENT_LATE, number, slot, now_ns - known.sent_ns)
    if (known.failures > FAILURES and not known.pardoned and not host.flags & SEND_DEMOTED
            and known.failing_ns > known.rose_ns and host.state == MASTER
            and known.sent_ns - known.failing_ns > rule_interval_ns(known, host)):
        broken(world, DEMOTED_WRONGLY, number, slot, known.sent_ns - known.failing_ns)
    # Reports of a change of state may not be taken yet: without a link it sends nothing anyway.
    check_demotion(world, machine, slot, BY_LINK)
    known.sent_ns, known.sent_every_ns = now_ns, rule_interval_ns(known, host)
    for i in range(host.block.output_count):
        output = &host.block.outputs[i]
        carp = output.frame + output.carp_at
        if carp[4] != rule_demote(known, host) or not resigns and (
                carp[5] != known.right.configured.advbase or carp[2] != rule_advskew(known, host)):
            broken(world, SENT_WRONG_PRIORITY, number, slot,
                   <int64_t>carp[4] << 16 | <int64_t>carp[5] << 8 | carp[2])
        counter = counter_of(carp)
        # Beyond all that it sent, which may have gone past 2^64.
        if known.first and counter - known.first <= known.counter - known.first:
            broken(world, SENT_OLD_COUNTER, number, slot, <int64_t>counter)
        known.counter = counter
        rule_send(world, known, counter, now_ns)
        known.first = known.first if known.first else counter


cdef void check_demotion(World* world, Machine* machine, uint32_t slot, int until) noexcept nogil:
    """Check the demotion by each reason before `until`, as status shows it: they add up to all."""
    cdef const Slot* known = &machine.slots[slot]
    cdef const VirtualHost* host = &machine.core.hosts[slot]
    cdef int by
    for by in range(until):
        if vhid_demoted_by(host, by) != rule_demoted_by(known, host, by):
            broken(world, DEMOTION_UNEQUAL, machine_number(world, machine), slot, by)


cdef void on_sent(World* world, Machine* machine, uint32_t slot, bint sent,
                  bint refused) noexcept nogil:
    """The host has advertised, or tried to: note how soon it must try again.

    sent, refused: some of its frames were; the latter by a full queue.
    """
    cdef Slot* known = &machine.slots[slot]
    known.tries_again = refused and machine.core.hosts[slot].state != MASTER
    if known.tries_again:
        known.owes_resignation |= known.owed_resignation
        known.owes_last |= not known.owed_resignation
    if sent:
        known.failures = known.pardoned = 0
        return
    if known.failures == 0:
        known.failing_ns = known.sent_ns
    known.failures += 1
    if refused:
        known.sent_every_ns = min(known.sent_every_ns, TICK_NS << min(known.failures - 1, 20))


cdef void on_sends(World* world, Machine* machine, const Report* report) noexcept nogil:
    """A host is demoted for its sends, or no longer."""
    cdef Slot* known = &machine.slots[report.slot]
    cdef int64_t failing_ns = report.at_ns - known.failing_ns
    cdef bint proven = known.pardoned or (known.failures >= FAILURES and failing_ns >= (
        <int64_t>known.right.configured.advbase * SECOND_NS))
    if report.kind == SENDS_FAILING and not proven:
        broken(world, DEMOTED_WRONGLY, machine_number(world, machine), report.slot, failing_ns)
    elif report.kind == SENDS_RECOVERED and known.failures:
        broken(world, DEMOTED_WRONGLY, machine_number(world, machine), report.slot, failing_ns)
    known.mute = report.kind == SENDS_FAILING
    world.slot_disturbed_ns[report.slot] = world.now_ns
    known.priority_ns = report.at_ns


cdef bint is_late(const World* world, const Machine* machine, uint32_t slot,
                  int64_t now_ns) noexcept nogil:
    """Whether the last advertisement promised an earlier one, and nothing hindered the machine."""
    cdef const Slot* known = &machine.slots[slot]
    if now_ns - known.sent_ns <= known.sent_every_ns + LATE_NS:
        return False
    return world.slot_rest[slot] == QUIET or (
        known.sent_ns > max(known.rose_ns, machine.hindered_ns))


cdef inline uint64_t counter_of(const uint8_t* carp) noexcept nogil:
    cdef uint64_t counter = 0
    cdef int i
    for i in range(8, 16):
        counter = counter << 8 | carp[i]
    return counter
