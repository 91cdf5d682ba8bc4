"""The election fuzzer: one virtual host in random worlds, beside a model of it.

What it hears, misses and is told decides state, deadline, jitter, verdicts, and when it advertises
what. All of that is compared with election_rules, counter_rules and advertising_rules after each
step.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, ClassVar

from carp_fast.engine._engine import Engine
from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine.actions import Action, Advertise, RemoveAddresses, Resign
from tests.fuzz import election_frames
from tests.fuzz.advertising_rules import MS, Schedule
from tests.fuzz.cases import Document, Failure
from tests.fuzz.counter_rules import NONE, Counters
from tests.fuzz.election_rules import SECOND_NS, Absence, Heard, Host, Settings
from tests.fuzz.wire_rules import Key, Known, Packet, accepted, opened, verdict
from tests.support.segment import GROUP, GROUP6, internet_checksum

MAC = b"\x02\0\0\0\0\x01"
VIRTUAL_MACS = {"ucarp": b"\0\0\x5e\0\0", "bsd": b"\0\0\x5e\0\1"}
ABSENCES_MAX = 15  # of the sixteen that are kept
INTERVALS_MAX = 50  # of a MASTER in one step: more tell nothing new


def mac_of(setup: Document) -> bytes:
    start = VIRTUAL_MACS.get(setup["advertise_mac"])
    return start + bytes((setup["vhid"],)) if start else MAC


class ElectionWorld:
    """A virtual host of the engine, and what it must be. `over`: nobody can tell any more."""

    def __init__(self, setup: Document) -> None:
        self.setup = setup
        self.now_ns: int = setup["at"]
        self.addresses = [bytes.fromhex(each) for each in setup["addresses"]]
        families = tuple(sorted({4 if len(each) == 4 else 6 for each in self.addresses}))
        sources = {4: bytes.fromhex(setup["source"]), 6: bytes.fromhex(setup["source6"])}
        lladdr = bytes.fromhex(setup["lladdr"]) if setup["lladdr"] else None
        names = ("dialect", "advbase", "advskew", "dead_ratio", "preempt", "replay")
        given = {name: setup[name] for name in names}
        mac = mac_of(setup)
        settings = Settings(
            families=families,
            sources=sources,
            mac=mac,
            virtual_mac=mac != MAC,
            **given,
        )
        passphrase = bytes.fromhex(setup["passphrase"])
        messages = accepted(setup["vhid"], self.addresses, setup["dialect"], lladdr)
        self.keys = tuple(Key(passphrase, each) for each in messages)
        groups = {4: GROUP, 6: GROUP6}
        self.known = Known(
            0, setup["vhid"], self.keys, tuple(groups[each] for each in families), (), sources
        )
        self.engine = Engine(4096, setup["seed"])
        self.engine.set_interface(0, self.now_ns, mac=MAC, source=sources[4], source6=sources[6])
        lengths = {4: 32, 16: 128}
        prepared = PreparedHost(
            interface=0,
            vhid=setup["vhid"],
            addresses=[(each, lengths[len(each)]) for each in self.addresses],
            passphrase=passphrase,
            lladdr=lladdr,
            counter=setup["counter"],
            advertise_mac=setup["advertise_mac"],
            **given,
        )
        self.engine.add(0, prepared, self.now_ns)
        self.host = Host(settings, self.now_ns)
        self.counters = Counters(setup["replay"])
        self.counters.spans_ns.append(self.host.master_down_ns)
        self.counters.least_ns = self.host.interval_ns
        self.schedule = Schedule()
        self.highest: int | None = None
        self.answered_ns = self.arrived_ns = 0
        self.over = False
        self.features: set[str] = set()
        self.check()

    # -------------------------------------------------------------------------------------- steps

    def take(self, step: Document) -> None:
        if self.over:
            return
        self.go(max(step["at"], self.now_ns))
        getattr(self, "do_" + step["do"])(step)
        if not self.over:
            self.check()

    def do_wait(self, step: Document) -> None:
        """Time has gone on."""

    def do_miss(self, step: Document) -> None:
        """The pump was away, or a socket dropped frames, since then."""
        if len(self.host.absences) >= ABSENCES_MAX:
            return
        since_ns, asleep_ns = self.now_ns - step["since"], step["asleep"]
        if step["dropped"]:
            self.engine.drop(self.now_ns, since_ns)
        else:
            self.engine.stall(self.now_ns, since_ns, asleep_ns)
        self.host.miss(Absence(since_ns, self.now_ns, asleep_ns, step["dropped"]))

    def do_demote(self, step: Document) -> None:
        self.engine.demote(0, step["by"], self.now_ns)
        self.host.demotion = step["by"]
        self.counters.spans_ns.append(self.host.master_down_ns)
        self.counters.least_ns = min(self.counters.least_ns, self.host.interval_ns)
        self.schedule.excuse()
        if self.host.state == "MASTER":
            self.schedule.begin(self.now_ns)

    def do_hear(self, step: Document) -> None:
        frame = bytes.fromhex(step["frame"])
        self.arrived_ns = max(self.now_ns - step["ago"], self.host.since_ns, self.arrived_ns)
        word = verdict(frame, 0, [self.known], self.arrived_ns)
        if word == "ok":
            packet = opened(frame)
            assert isinstance(packet, Packet)
            self.hear(frame, packet)
        else:
            got = self.engine.receive(0, frame, self.arrived_ns)
            if got != word:
                raise Failure(f"verdict {got}, not {word}: {frame.hex()}")
            self.drain()

    # ------------------------------------------------------------------------------ what is heard

    def hear(self, frame: bytes, packet: Packet) -> None:
        """A frame with a right digest: a loop, one that was sent before, or an advertisement."""
        counters, at_ns = self.counters, self.arrived_ns
        key, number = (packet.family, packet.source), int.from_bytes(packet.counter, "big")
        may, mirrored = self.may(packet, key, number)
        got = self.engine.receive(0, frame, at_ns)
        self.features.add(f"{self.setup['replay']} {got} of {sorted(may)}")
        if got not in may:
            known = sorted(counters.known(number, at_ns, key))
            raise Failure(f"verdict {got}, not {sorted(may)}: known {known}, {frame.hex()}")
        if got == "replay":
            ours = self.is_own(packet) and packet.mac == MAC
            counters.refuse(key, number, at_ns, ours=ours)
            self.on_refused()
        elif got == "ok" and mirrored is not False:
            self.over = mirrored is None  # nobody can tell what becomes of it
            if not self.over:
                self.drain()
        elif got == "ok":
            self.on_advertisement(packet, key, number)
        else:
            self.drain()

    def is_own(self, packet: Packet) -> bool:
        return packet.source == self.host.settings.sources[packet.family]

    def has_own_mac(self, packet: Packet) -> bool:
        """Whether it comes from our source and MAC, as far as MACs are known."""
        return self.is_own(packet) and packet.mac in (self.host.settings.mac, bytes(6))

    def may(self, packet: Packet, key: tuple[int, bytes], number: int) -> tuple[set[str], Any]:
        """The verdicts that are right, and whether it is our own under another MAC."""
        counters, at_ns, interval_ns = self.counters, self.arrived_ns, self.host.interval_ns
        own_mac = self.has_own_mac(packet)
        may = counters.may(key, number, at_ns, self.is_own(packet), interval_ns, own_mac=own_mac)
        if not self.is_own(packet):
            return may, False
        settings = self.host.settings
        late = "loop" if settings.replay == "off" else "replay"
        recent = counters.sent_lately(number, at_ns, interval_ns)
        if packet.mac == settings.mac:
            if recent is not False:
                may = {"loop"} if recent else {"loop", *may}
                return (may if recent or settings.virtual_mac else {late, *may}), False
            known = counters.known_from(number, at_ns, key, own_mac=own_mac)
            if known != {NONE} and not settings.virtual_mac:
                # Our own MAC is nobody else's: what is known came back late.
                sure = counters.went_past(number) or (
                    NONE not in known and number in counters.sent_ns
                )
                may = {late} | (set() if sure else may)
            return may, False
        if recent is False:
            return may, False
        # With virtual MACs the pages differ in whether the counter alone decides.
        may = ({"ok"} if recent else {"ok", *may}) | ({"loop"} if settings.virtual_mac else set())
        return may, recent

    def on_refused(self) -> None:
        """A MASTER answers those that it does not believe, once an interval."""
        if not self.sent(self.drain(asked=True)):
            return
        if self.host.state != "MASTER" or self.was_answered():
            raise Failure("answered needlessly: a frame that was sent before")
        self.features.add("answered what was sent before")
        self.answer()
        self.schedule.excuse()  # that is promised of answers to slower masters

    def was_answered(self) -> bool:
        return self.arrived_ns - self.answered_ns < self.host.interval_ns

    def answer(self) -> None:
        self.answered_ns = self.arrived_ns
        self.schedule.twice(self.arrived_ns, self.now_ns, self.host.interval_ns)

    def on_advertisement(self, packet: Packet, key: tuple[int, bytes], number: int) -> None:
        host, carp = self.host, packet.carp
        advskew, demote, advbase = carp[2], carp[4], carp[5]
        heard = Heard(*key, packet.mac, advbase, advskew, demote, self.arrived_ns)
        self.counters.accept(
            key, number, self.arrived_ns, heard.interval, own_mac=self.has_own_mac(packet)
        )
        self.highest = max(self.highest or 0, number)
        was = host.state
        word = host.hear(heard)
        self.over = host.open
        if self.over:
            return
        own = " own" if self.is_own(packet) else ""
        self.features.add(f"{host.settings.dialect} {word}{own} {min(host.ties, 4)}")
        if word == "tie":
            self.draw_jitter()
        if was != host.state and host.state == "MASTER":
            self.schedule.begin(self.now_ns)
            self.schedule.twice(self.arrived_ns, self.now_ns, host.interval_ns)
        sent = self.sent(self.drain(asked=True))
        wanted = word == "faster"
        if word == "stays" and (heard.interval != 0) and not self.was_answered():
            wanted = True
            self.answer()
        if was == "MASTER" and sent != wanted:
            raise Failure(f"advertises {sent}, not {wanted}: {word}")
        if host.state != "MASTER":
            self.schedule.end()

    def draw_jitter(self) -> None:
        """The jitter is the engine's own, within its range."""
        jitter_ns: int = self.engine.checkpoint(0, self.now_ns)["state"].get("jitter_ns", 0)
        from_ns = self.host.jitter_from_ns
        if not from_ns - 1_000 <= jitter_ns < from_ns + max(self.host.part_ns, 1):
            raise Failure(f"jitter {jitter_ns}, not from {from_ns} on: {self.host.ties} ties")
        self.host.jitter_ns = jitter_ns
        self.host.deadline_ns = self.arrived_ns + self.host.master_down_ns + jitter_ns

    # --------------------------------------------------------------------------------------- time

    def go(self, until_ns: int) -> None:
        """Time goes on; what is due until then happens, each at its tick."""
        while True:
            deadline_ns = self.engine.host(0).deadline_ns
            due_ns = -(-deadline_ns // MS) * MS
            ticks = self.schedule.ticks(self.now_ns, due_ns)
            if ticks and min(ticks) <= until_ns and self.host.state == "MASTER":
                self.now_ns = min(ticks)  # where something is to be repeated, each is looked at
                self.engine.expire(self.now_ns)
                self.drain()
                continue
            if due_ns > until_ns or deadline_ns == 0:
                break
            self.now_ns = max(self.now_ns, due_ns)
            until_ns = max(self.on_due(due_ns), until_ns)
            if self.host.state == "MASTER":
                until_ns = min(until_ns, self.now_ns + INTERVALS_MAX * self.host.interval_ns)
        self.now_ns = max(self.now_ns, until_ns)
        self.expire()

    def on_due(self, due_ns: int) -> int:
        """A deadline is over; returns the time at which it was handled."""
        was = self.host.state
        sent = self.sent(self.expire())
        if not sent and was == self.host.state == "MASTER":
            self.now_ns += MS
            self.engine.expire(self.now_ns)
            sent = self.sent(self.drain())
            if not sent and self.now_ns - due_ns > 6 * MS:
                raise Failure(f"not advertised: due at {due_ns}, now {self.now_ns}")
        return self.now_ns

    def expire(self) -> list[Action]:
        """The engine's deadlines up to now, and the model's."""
        host = self.host
        was, over_ns = host.state, host.deadline_ns
        self.engine.expire(self.now_ns)
        if was == "BACKUP":
            if over_ns <= self.now_ns and self.engine.host(0).state == "BACKUP":
                self.now_ns += MS  # its tick is not over
                self.engine.expire(self.now_ns)
            host.expire(self.now_ns)
        if was != host.state:
            self.schedule.begin(self.now_ns)
            self.schedule.twice(over_ns, self.now_ns, host.interval_ns)
            self.features.add(f"{host.settings.dialect} rises {min(host.ties, 4)}")
        actions = self.drain(asked=was != host.state)
        self.check()
        return actions

    # ------------------------------------------------------------------------------------- checks

    @staticmethod
    def sent(actions: list[Action]) -> bool:
        return any(isinstance(each, Advertise) for each in actions)

    def drain(self, *, asked: bool = False) -> list[Action]:
        """Takes the engine's actions, which must be right; `asked`: by what just happened."""
        actions = self.engine.take_actions(self.now_ns)
        self.engine.take_reports()
        for action in actions:
            if isinstance(action, Advertise | Resign):
                self.check_advertisement(action.frame)
        if self.host.state == "MASTER":
            interval_ns = self.host.interval_ns
            self.schedule.tell(self.now_ns, interval_ns, sent=self.sent(actions), asked=asked)
        else:
            self.schedule.end()
        return actions

    def check_advertisement(self, frame: bytes) -> None:
        """One that is sent: its digest, its fields, a counter above all before."""
        packet = opened(frame)
        if isinstance(packet, str) or internet_checksum(packet.carp):
            raise Failure(f"no advertisement is sent: {frame.hex()}")
        if packet.payload[16:] != self.keys[0].digest(packet.counter):
            raise Failure(f"a wrong digest is sent: {frame.hex()}")
        fields = packet.payload[1], packet.payload[3], packet.payload[4]
        if fields != (self.setup["vhid"], 7, self.host.demote) or packet.mac != mac_of(self.setup):
            raise Failure(f"wrong fields are sent: {frame.hex()}")
        number = int.from_bytes(packet.counter, "big")
        if self.highest is not None and number <= self.highest:
            raise Failure(f"a counter that is not above all: {number} after {self.highest}")
        self.highest = number
        self.counters.send(number, self.now_ns)

    def check(self) -> None:
        """State, deadline and times are those of the model."""
        copy, host = self.engine.host(0), self.host
        if copy.state != host.state:
            raise Failure(f"state {copy.state} ({copy.reason}), not {host.state}")
        if host.state == "BACKUP" and copy.deadline_ns != host.deadline_ns:
            raise Failure(
                f"deadline {copy.deadline_ns}, not {host.deadline_ns}:"
                f" {copy.deadline_ns - host.deadline_ns} ns"
            )
        times = copy.master_down_ns, copy.interval_ns, copy.effective_advskew
        if times != (host.master_down_ns, host.interval_ns, host.advskew):
            raise Failure(f"times {times}, not those of advskew {host.advskew}")

    def end(self) -> None:
        """A MASTER that ends removes its addresses, then resigns; others are silent."""
        if self.over:
            return
        self.engine.resign_all(self.now_ns)
        actions = self.engine.take_actions(self.now_ns)
        kinds = [type(action) for action in actions]
        if self.host.state != "MASTER":
            if kinds:
                raise Failure(f"a BACKUP that ends does not keep silent: {actions}")
            return
        families = len(self.host.settings.families)
        if kinds.count(Resign) != families or RemoveAddresses not in kinds:
            raise Failure(f"resigned in the wrong way: {kinds}")
        if kinds.index(RemoveAddresses) > kinds.index(Resign):
            raise Failure(f"resigned before its addresses are gone: {kinds}")


class ElectionFuzzer:
    """Draws a host, its neighbours, and what they send, orderly or not."""

    name: ClassVar[str] = "election"
    seeds: ClassVar[int] = 20_000
    shrinking_s: ClassVar[float] = 20.0

    def setup(self, random: Random) -> Document:
        return election_frames.draw_setup(random)

    def world(self, setup: Document) -> ElectionWorld:
        return ElectionWorld(setup)

    def steps(self, random: Random, setup: Document, world: ElectionWorld) -> Iterator[Document]:
        wire = election_frames.Wire(random, setup, world.keys)
        for _ in range(random.choice((20, 60, 150))):
            if world.over:
                return
            host, pick = world.host, random.random()
            jumps = [0, 1, MS - 1, MS, 10 * MS, 100 * MS, SECOND_NS // 3, SECOND_NS, SECOND_NS]
            jumps += [3 * SECOND_NS, random.randrange(4 * SECOND_NS), host.interval_ns]
            jumps += [host.master_down_ns if random.random() < 0.3 else SECOND_NS // 7]
            at = {"at": world.now_ns + random.choice(jumps)}
            if pick < 0.06:
                yield at | self.draw_absence(random, host)
            elif pick < 0.1:
                yield at | {"do": "demote", "by": random.choice((0, 1, 100, 240, 300))}
            else:
                # Time goes on before it is drawn: what is sent until then may be captured.
                yield at | {"do": "wait"}
                if not world.over:
                    frame = wire.draw(world.host, world.counters)
                    ago = random.choice((0, 0, 0, 1, 5 * MS))
                    yield {"do": "hear", "frame": frame.hex(), "ago": ago, "at": world.now_ns}

    @staticmethod
    def draw_absence(random: Random, host: Host) -> Document:
        lengths = (
            *(0, 1, 10 * MS, SECOND_NS // 2, SECOND_NS, SECOND_NS + 1, 3 * SECOND_NS // 2),
            *(host.interval_ns, host.interval_ns + 1, host.master_down_ns, 10 * SECOND_NS),
        )
        dropped = random.random() < 0.3
        asleep = 0 if dropped else random.choice((0, 0, 0, SECOND_NS // 2, 5 * SECOND_NS))
        return {
            "do": "miss",
            "since": random.choice(lengths),
            "asleep": asleep,
            "dropped": dropped,
        }

    def close(self) -> None:
        """Nothing is shared."""
