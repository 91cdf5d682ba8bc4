"""Episodes of a world: what befalls its machines, links and virtual hosts for a while.

Each draws its details and puts faults, some to the end. Must not know how a world is run, nor the
engine.
"""

from __future__ import annotations

from collections.abc import Callable

from carp_fast.simulate._world import ALWAYS, NIC_WORDS, PAUSE_WORDS
from carp_fast.simulate.world import BOTH, IPV4, IPV6, MS_NS, SECOND_NS
from carp_fast.simulate.worlds import Drawing

DEMOTED_BY, ORDERED = 1 << 16, (0, 1, 1, 3)
"""The value of a "demote" is the number of a reason times this, plus the amount; not by a group."""
BY_TRACK, HARD = 1, 1 << 24
"""... plus this if the reason is a track, without which the virtual host cannot be MASTER."""
MANY_SOURCES = 100
"""More sources than a world has."""
NOISE = ("loss4", "loss6", "duplicate", "corrupt", "replay", "forge", "forward", "reflect", "late")

ENDINGS = {
    "link": 0,
    "nic": NIC_WORDS.index("back"),
    "key": 0,
    "replace": 0,
    "send_errors": 0,
    "netlink_errors": 0,
    "slow_netlink": 10_000,
    "lock_held": 0,
    "secondaries": 0,
    "source": BOTH,
}


def noise(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Loss, duplicates, flipped bits, replays, forgeries, late frames and the like, on links."""
    names = [name for name in NOISE if to.chance(2)] or [NOISE[to.random.below(len(NOISE))]]
    for name in names:
        rate = to.random.between(ALWAYS // 100, ALWAYS // 2)
        for segment, a, b in to.pairs():
            pair = (segment, a, a if name == "reflect" else b)
            to.link(start_ns, name, pair, rate)
            to.link(end_ns, name, pair, 0)


def strangers(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A stranger without the key sends captured frames again, from its own addresses."""
    rate = to.random.between(ALWAYS // 100, ALWAYS // 5)
    for pair in to.pairs():
        to.link(start_ns, "stranger", pair, rate)
        to.link(end_ns, "stranger", pair, 0)


def delay(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Frames take longer, and overtake each other when the delay ends."""
    longer_ns = to.random.between(1, 400) * MS_NS
    for segment, a, b in to.pairs():
        to.link(start_ns, "delay_ns", (segment, a, b), longer_ns)
        to.link(end_ns, "delay_ns", (segment, a, b), to.delay_ns((segment, a, b)))


def partition(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A segment is split in two."""
    to.part(start_ns, end_ns)


def one_way(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine hears a segment but is not heard, or the other way round."""
    segment, deaf = to.random.below(to.world.segments), to.any_machine()
    heard = to.chance(2)
    to.world.partitions += 1
    for other in range(to.world.machines):
        if other != deaf:
            a, b = (deaf, other) if heard else (other, deaf)
            to.block(start_ns, end_ns, (segment, a, b), BOTH)


def one_family(to: Drawing, start_ns: int, end_ns: int) -> None:
    """One family is blocked, the other one is not."""
    to.silence(start_ns, end_ns)


def pause(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A process is stopped, or its machine frozen or suspended."""
    machine = to.any_machine()
    to.put(start_ns, "pause", machine=machine, value=1 + to.random.below(len(PAUSE_WORDS) - 1))
    to.put(end_ns, "resume", machine=machine)


def hiccups(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A process is stopped repeatedly, each time for less than the shortest interval."""
    machine, at_ns = to.any_machine(), start_ns
    while at_ns + SECOND_NS < end_ns:
        length_ns = to.random.between(50, 950) * MS_NS
        to.put(at_ns, "pause", machine=machine, value=PAUSE_WORDS.index("stopped"))
        to.put(at_ns + length_ns, "resume", machine=machine)
        at_ns += length_ns + to.random.between(50, 500) * MS_NS


def flap(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A link goes down and up, or an interface or its name disappears and comes back."""
    machine, segment = to.any_machine(), to.random.below(to.world.segments)
    off, on = (("down", "up"), ("gone", "back"), ("renamed", "named"))[to.random.below(3)]
    to.put(start_ns, "nic", machine=machine, segment=segment, value=NIC_WORDS.index(off))
    to.put(end_ns, "nic", machine=machine, segment=segment, value=NIC_WORDS.index(on))


def no_source(to: Drawing, start_ns: int, end_ns: int) -> None:
    """An interface has no address of one family, or of any."""
    machine, segment = to.any_machine(), to.random.below(to.world.segments)
    left = to.random.below(BOTH)
    if to.chance(2):  # another one takes its place
        end_ns = min(end_ns, start_ns + to.random.between(1, 900) * MS_NS)
    to.put(start_ns, "source", machine=machine, segment=segment, value=left)
    to.put(end_ns, "source", machine=machine, segment=segment, value=BOTH)


def crash(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine crashes and boots again."""
    machine = to.any_machine()
    to.put(start_ns, "crash", machine=machine)
    to.put(end_ns, "boot", machine=machine)


def shutdown(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine shuts down: every MASTER resigns first."""
    machine = to.any_machine()
    gone_ns = start_ns + min(SECOND_NS, (end_ns - start_ns) // 2)
    to.put(start_ns, "resign_all", machine=machine)
    to.put(gone_ns, "crash", machine=machine)
    to.put(end_ns, "boot", machine=machine)


def wrong_key(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine has another passphrase for a while."""
    to.switch_some("key", start_ns, end_ns)


def send_errors(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Sending fails, sometimes or always, over one family or both."""
    machine = to.any_machine()
    rate = ALWAYS if to.chance(2) else to.random.between(1_000, ALWAYS)
    families = (IPV4, IPV6, BOTH, BOTH)[to.random.below(4)]
    for family in range(2):
        if families >> family & 1:
            to.put(start_ns, "send_errors", machine=machine, slot=family, value=rate)
            to.put(end_ns, "send_errors", machine=machine, slot=family, value=0)


def hold_lock(to: Drawing, machine: int, start_ns: int, end_ns: int) -> None:
    """Another program holds the lock of the kernel's addresses, up to some seconds each time."""
    most_ns = (20 * MS_NS, SECOND_NS, 6 * SECOND_NS)[to.random.below(3)]
    at_ns = start_ns
    while at_ns < end_ns:
        until_ns = min(at_ns + to.random.between(MS_NS, most_ns), end_ns)
        to.put(at_ns, "lock_held", machine=machine, value=1)
        to.put(until_ns, "lock_held", machine=machine, value=0)
        at_ns = until_ns + to.random.between(MS_NS, most_ns)


def netlink_errors(to: Drawing, start_ns: int, end_ns: int) -> None:
    """The kernel refuses address changes, loses answers, removes secondaries too, or is slow.

    Or another program holds its lock, all the time or again and again.
    """
    machine, kind = to.any_machine(), to.random.below(4)
    if kind == 3:
        hold_lock(to, machine, start_ns, end_ns)
    elif kind:
        rate = ALWAYS if to.chance(4) else to.random.below(ALWAYS)
        word = ("netlink_errors", "secondaries")[kind - 1]
        to.put(start_ns, word, machine=machine, value=rate)
        to.put(end_ns, word, machine=machine, value=0)
    else:
        most_ns = MS_NS // 10 if to.world.large else 5 * MS_NS
        value = to.random.between(10_000, most_ns)
        to.put(start_ns, "slow_netlink", machine=machine, value=value)
        to.put(end_ns, "slow_netlink", machine=machine, value=ENDINGS["slow_netlink"])


def clock_step(to: Drawing, start_ns: int, end_ns: int) -> None:
    """The wall clock is stepped, a little or by up to an hour, and perhaps back."""
    machine = to.any_machine()
    most_ms = 20 if to.chance(2) else 3_600_000
    value = to.random.between(-most_ms, most_ms) * MS_NS
    to.put(start_ns, "clock_step", machine=machine, value=value)
    to.put(end_ns, "clock_step", machine=machine, value=-value)


def lost_addresses(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Another program removes addresses, or a BACKUP still has one of ours.

    Half of the virtual hosts then give up an address that was removed too often.
    """
    machine = to.any_machine()
    for member in to.some(machine):
        which = to.random.below(member.addresses + member.addresses6)
        word = ("address_removed", "address_removed", "address_left")[to.random.below(3)]
        to.put(start_ns, word, machine=machine, slot=member.slot, value=which)
        if to.chance(2):
            to.put(end_ns, "address_lost", machine=machine, slot=member.slot)


def flood(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Strangers fill the common lane of a machine or of all, for a while or to the end.

    To the end only if all genuine sources have their own lanes: others could never take over.
    """
    for_good = to.world.limits.source_room > MANY_SOURCES and to.chance(2)
    frames, dropped = to.random.between(1, 10), to.random.between(ALWAYS // 100, ALWAYS * 8 // 10)
    every = range(to.world.machines)
    for machine in every if to.chance(2) else [to.any_machine()]:
        to.put(start_ns, "flood", machine=machine, slot=frames, value=dropped)
        if not for_good:
            to.put(end_ns, "flood", machine=machine)


def demotion(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Some virtual hosts are demoted by one reason, for a while or to the end."""
    machine, for_good = to.any_machine(), to.chance(2)
    reason = ORDERED[to.random.below(len(ORDERED))]
    by = DEMOTED_BY * reason
    value = to.random.between(1, (3, 240, 300)[to.random.below(3)])
    hard = HARD if reason == BY_TRACK and value % 2 else 0
    for member in to.some(machine):
        to.put(start_ns, "demote", machine=machine, slot=member.slot, value=hard + by + value)
        if not for_good:
            to.put(end_ns, "demote", machine=machine, slot=member.slot, value=by)


def many_orders(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Orders come faster than advertisements: demotions and reloads, of the same or in turn."""
    machine, at_ns, turn = to.any_machine(), start_ns, 0
    members = to.some(machine)
    word, values = (("demote", 1), ("demote", 2), ("replace", 2))[to.random.below(3)]
    end_ns = min(end_ns, start_ns + 5 * SECOND_NS)
    while at_ns < end_ns:
        for member in members:
            to.put(at_ns, word, machine=machine, slot=member.slot, value=turn % values)
        at_ns += to.random.between(5, 300) * MS_NS
        turn += 1
    for member in members:
        to.put(end_ns, word, machine=machine, slot=member.slot, value=0)


def in_use(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Another process of a machine runs some of the virtual hosts for a while."""
    to.switch_some("bar", start_ns, end_ns)


def hand_overs(to: Drawing, start_ns: int, end_ns: int) -> None:
    """Virtual hosts of a machine are handed over, or taken over, by hand, some again and again."""
    machine, at_ns = to.any_machine(), start_ns
    members = to.some(machine)
    for _ in range(to.random.between(1, 4)):
        for member in members:
            word = ("yield", "preempt")[to.random.below(2)]
            to.put(at_ns, word, machine=machine, slot=member.slot, value=to.random.below(2))
        at_ns += to.random.between(5, 4_000) * MS_NS
        if at_ns > end_ns:
            break


def maintenance(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A machine is in maintenance, for a while or to the end: what stays MASTER resigns.

    It may crash on its way there, and starts again in maintenance; or end it before that.
    """
    machine, for_good = to.any_machine(), to.chance(3)
    forced = 2 if to.chance(4) else 1
    to.put(start_ns, "maintenance", machine=machine, value=forced)
    at_ns = start_ns + to.random.between(0, min(5_000, (end_ns - start_ns) // MS_NS)) * MS_NS
    for member in to.some(machine) if to.chance(3) else to.world.on(machine):
        to.put(at_ns, "yield", machine=machine, slot=member.slot, value=1)
    if to.chance(3):
        down_ns = to.random.between(start_ns // MS_NS, end_ns // MS_NS) * MS_NS
        to.put(down_ns, "crash", machine=machine)
        to.put(min(end_ns, down_ns + to.random.between(1, 3_000) * MS_NS), "boot", machine=machine)
    if not for_good:
        to.put(end_ns, "maintenance", machine=machine, value=0)


def removal(to: Drawing, start_ns: int, end_ns: int) -> None:
    """A reload removes some virtual hosts, and another one adds them again."""
    machine = to.any_machine()
    for member in to.some(machine):
        to.put(start_ns, "remove", machine=machine, slot=member.slot)
        to.put(end_ns, "add", machine=machine, slot=member.slot)


EPISODES: tuple[Callable[[Drawing, int, int], None], ...] = (
    3 * (noise,)
    + 2 * (strangers,)
    + (delay,)
    + 2 * (partition,)
    + (one_way,)
    + 2 * (one_family,)
    + 2 * (pause,)
    + (hiccups,)
    + (flap,)
    + (no_source,)
    + 2 * (crash,)
    + (shutdown,)
    + (wrong_key,)
    + (send_errors,)
    + (netlink_errors,)
    + (clock_step,)
    + (netlink_errors,)
    + (lost_addresses,)
    + 2 * (flood,)
    + 2 * (demotion,)
    + (many_orders,)
    + (in_use,)
    + 2 * (hand_overs,)
    + 2 * (maintenance,)
    + (removal,)
)
