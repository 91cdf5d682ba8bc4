"""Plays a scenario: gives its inputs to a real engine, whose decisions are written down.

Heard frames are signed with the scenario's own passphrase, so a recording needs no secret. In a
recorded scenario deadlines are checked only when the daemon checked them, so that decisions follow
the same frames as in the daemon. Must not know files, sockets or the command line.
"""

from __future__ import annotations

import errno
import tomllib
from typing import Any, NamedTuple

from carp_fast.config.model import as_shown
from carp_fast.config.rules import SETTING_RULES, Refused
from carp_fast.engine._auth import Key
from carp_fast.engine._engine import THERE_WORDS, Engine
from carp_fast.engine._prepared import PreparedHost, signed_forms
from carp_fast.engine.actions import (
    Action,
    AddAddresses,
    Advertise,
    Announce,
    RemoveAddresses,
    Resign,
)
from carp_fast.engine.keys import ALL_KEYS
from carp_fast.engine.reports import StateChanged, Undemoted
from carp_fast.inet import address_bytes, address_text, mac_bytes, prefix_bytes
from carp_fast.replay import forge as frames
from carp_fast.replay import scenario as scenarios
from carp_fast.replay.scenario import (
    INTERFACE_FLAGS,
    SECOND_NS,
    START_NS,
    Line,
    Scenario,
    ScenarioError,
    seconds_ns,
)

# A daemon that does not check its deadlines for longer than the shortest interval records that.
# A decision that is due for this long without such a line differs from the recording.
LATE_NS = 1_100_000_000
WHILE_KILLED = ("start", "link", "interface", "reload", "kernel", "end")
GROUPS = {4: "224.0.0.18", 16: "ff02::12"}
ADDRESS_LISTS = ("addresses", "unsigned_addresses", "retired_addresses")


def addresses_of(action: Action) -> list[bytes]:
    """The addresses that an action adds, removes or announces."""
    if isinstance(action, Announce):
        return [
            frame[28:32] if frame[12:14] == b"\x08\x06" else frame[62:78] for frame in action.frames
        ]
    assert isinstance(action, AddAddresses | RemoveAddresses)
    return action.addresses


class Output(NamedTuple):
    """A decision, in the words of a transcript; `at_ns`: since the start."""

    at_ns: int
    name: str
    text: str


# ------------------------------------------------------------------------------ virtual hosts


def prepared(host: dict[str, Any], number: int, *, own_source: bool) -> PreparedHost:
    """A host's table in the form that the engine takes. Raises ValueError and TypeError."""
    given = {key.argument: key.given(key.found_in(host)) for key in ALL_KEYS}
    for key in ADDRESS_LISTS:
        given[key] = [prefix_bytes(text) for text in host.get(key, ())]
    for key in ("destination", "destination6"):
        if key in host:
            given[key] = address_bytes(host[key])
    for key in ("source", "source6"):
        if own_source and key in host:
            given[key] = address_bytes(host[key])
    return PreparedHost(
        interface=number,
        vhid=host["vhid"],
        passphrase=host["passphrase"].encode("utf-8", "surrogateescape"),
        peers=[address_bytes(peer) for peer in host.get("peers", ())],
        lladdr=mac_bytes(host["lladdr"]) if "lladdr" in host else None,
        counter=int(host.get("counter", 0)),
        alternates=True,
        broadcast=host.get("broadcast", False),
        barred=host.get("barred", False),
        withheld=host.get("withheld", False),
        **given,
    )


def outputs_of(host: dict[str, Any]) -> int:
    """The number of frames per advertisement: one to each peer, or to the group of each family."""
    families = {len(prefix_bytes(text)[0]) for text in host["addresses"]}
    return len(host.get("peers", ())) or len(families)


# 64 bits in a `state` table, possibly as text.
WIDE = ("counter", "first_sent", "stranger4", "stranger6")


def assumed_state(state: dict[str, Any]) -> dict[str, Any]:
    """A `state` table in the form that Engine.assume takes: addresses and MACs as bytes."""
    given = {key: int(value) if key in WIDE else value for key, value in state.items()}
    if "duplicate_mac" in state:
        given["duplicate_mac"] = mac_bytes(state["duplicate_mac"])
    given["history"] = {
        word: [(int(begin), count, at_ms) for begin, count, at_ms in ranges]
        for word, ranges in state.get("history", {}).items()
    }
    given["sources"] = [
        {
            **source,
            "address": address_bytes(source["address"]),
            "mac": mac_bytes(source["mac"]),
            "counter": int(source["counter"]),
            "refused": int(source["refused"]),
        }
        for source in state.get("sources", ())
    ]
    given["addresses"] = [
        (address_bytes(address), words) for address, words in state.get("addresses", {}).items()
    ]
    return given


# ------------------------------------------------------------------------------------- the player


class Player:
    """Gives inputs to an engine and collects its outputs. Times are in ns since the start."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.hosts = {host["name"]: dict(host) for host in scenario.hosts}
        self.slots = {
            name: host.get("slot", number) for number, (name, host) in enumerate(self.hosts.items())
        }
        self.names = {slot: name for name, slot in self.slots.items()}
        named = [*scenario.interfaces, *(host["interface"] for host in scenario.hosts)]
        self.numbers = {name: number for number, name in enumerate(dict.fromkeys(named))}
        self.interfaces = {name: self._first_state(name) for name in self.numbers}
        self.errors: dict[tuple[int, bytes | str | None], int] = {}
        self.counter = 0
        self.away = False
        self.away_ns: int | None = None  # start of the absence, until it is reported
        self.back_ns = -START_NS  # end of the last absence: deadlines before it expire then
        self.given_ns = -START_NS  # the time of the last input
        self.alive = False
        self.outputs: list[Output] = []
        beginning = {line.name for line in scenario.lines if line.words[0] == "begin"}
        self.first = [name for name in self.hosts if name not in beginning]
        self.passphrases = {name: host["passphrase"] for name, host in self.hosts.items()}

    def _first_state(self, name: str) -> dict[str, Any]:
        """The state of an interface at the start, as arguments of Engine.set_interface."""
        table = self.scenario.interfaces.get(name)
        if table is None:
            using = [host for host in self.scenario.hosts if host["interface"] == name]
            table = {
                key: host[key] for host in using for key in ("source", "source6") if key in host
            }
        return {
            "ifindex": table.get("ifindex", 1),
            "up": table.get("up", True),
            "mac": mac_bytes(table.get("mac", scenarios.DEFAULT_MAC)),
            "source": address_bytes(table["source"]) if "source" in table else None,
            "source6": address_bytes(table["source6"]) if "source6" in table else None,
            "forwards6": table.get("forwards6", False),
            "renamed": table.get("renamed", False),
            "announce": False,
        }

    def make_engine(self) -> Engine:
        return Engine(seed=self.scenario.seed)

    def start(self, at_ns: int) -> None:
        """Starts a new process with a new engine; adds the hosts without a `begin` line."""
        self.engine = self.make_engine()
        if self.scenario.tick_ns is not None:
            self.engine.wake_tick_ns = self.scenario.tick_ns
        self.engine.set_pace(*self.scenario.pace)
        self.alive = True
        for name, number in self.numbers.items():
            self.engine.set_interface(number, self._clock(at_ns), **self.interfaces[name])
        for name in self.first:
            self._begin(name, at_ns)
        self.settle(at_ns)

    def _clock(self, at_ns: int) -> int:
        return self.scenario.start_ns + at_ns

    def _prepared(self, name: str) -> PreparedHost:
        host = self.hosts[name]
        own_source = host["interface"] in self.scenario.interfaces
        return prepared(host, self.numbers[host["interface"]], own_source=own_source)

    def _begin(self, name: str, at_ns: int) -> None:
        slot, state = self.slots[name], self.hosts[name].get("state")
        demoted = self.hosts[name].get("demoted", {})
        self.engine.add(
            slot,
            self._prepared(name),
            self._clock(at_ns),
            demotion=demoted.get("operator", 0),
            track=demoted.get("track", 0),
            maintenance=demoted.get("maintenance", 0),
        )
        if state is not None:
            self.engine.assume(slot, assumed_state(state), self._clock(at_ns))
            self.back_ns = max(self.back_ns, at_ns)

    # -- outputs

    def write(self, at_ns: int, name: str, text: str) -> None:
        self.outputs.append(Output(at_ns, name, text))

    def write_states(self, at_ns: int) -> None:
        for report in self.engine.take_reports():
            if isinstance(report, StateChanged):
                self.write(at_ns, self.names[report.slot], f"{report.state} {report.reason}")
            elif isinstance(report, Undemoted):
                self.write(at_ns, self.names[report.slot], "UNDEMOTED")

    def carry_out(self, at_ns: int) -> None:
        """Carries out all queued actions; the frames of one advertisement are written once."""
        self.write_states(at_ns)
        sent: dict[int, int] = {}
        for action in self.engine.take_actions(self._clock(at_ns), self.errors):
            slot, name = action.slot, self.names[action.slot]
            if isinstance(action, Advertise | Resign):
                if sent.get(slot, 0) % outputs_of(self.hosts[name]) == 0:
                    carp = action.frame[34:] if action.frame[12] == 8 else action.frame[54:]
                    demote = f" demote {carp[4]}" if carp[4] else ""
                    self.write(at_ns, name, f"{action.word} {carp[5]}/{carp[2]}{demote}")
                sent[slot] = sent.get(slot, 0) + 1
            else:
                held = map(address_text, addresses_of(action))
                self.write(at_ns, name, f"{action.word} {' '.join(held)}")
        self.write_states(at_ns)

    def settle(self, at_ns: int) -> None:
        """Writes the results of an input; with recorded turns only its immediate decisions."""
        self.write_states(at_ns)
        if not self.scenario.turns:
            self.engine.expire(self._clock(at_ns))
            self.carry_out(at_ns)

    # -- inputs

    def run(self, until_ns: int) -> None:
        """Expires deadlines up to `until_ns` at their times; with recorded turns only late ones."""
        late_ns = LATE_NS if self.scenario.turns else 0
        while self.alive and not self.away:
            deadline_ns = self.engine.next_deadline_ns()
            if deadline_ns is None:
                return
            due_ns = max(deadline_ns - self.scenario.start_ns, self.back_ns)
            if due_ns + late_ns > until_ns or (late_ns and not self._is_late(until_ns - late_ns)):
                return
            # The deadline may be a lower bound: what the last input caused does not precede it.
            now_ns = max(due_ns, self.given_ns)
            self.engine.expire(self._clock(now_ns))
            self.carry_out(now_ns)

    def _is_late(self, until_ns: int) -> bool:
        """Whether a host's own time is over since `until_ns`: the engine's may be a lower bound."""
        until_ns = self._clock(until_ns)
        for slot in self.slots.values():
            try:
                host = self.engine.host(slot)
            except IndexError:
                continue  # not added yet
            without_ns = host.without_ns and host.without_ns + host.address_deadline_ns
            own = (host.deadline_ns, host.retry_at_ns, host.demoted_until_ns, without_ns)
            if any(0 < at_ns <= until_ns for at_ns in own):
                return True
        return False

    def give(self, line: Line) -> None:
        """Carries out one input of the transcript. Raises ScenarioError naming the line."""
        self.run(line.at_ns)
        self.given_ns = line.at_ns
        verb, *words = line.words
        if verb not in ("away", "stall"):
            self.away_ns = None
        self.away = verb == "away"
        if not self.alive and verb not in WHILE_KILLED:
            return
        try:
            getattr(self, f"_on_{verb}")(line, words)
        except (ValueError, TypeError, OverflowError, IndexError, KeyError) as error:
            # Python's text for a missing word or key is not a sentence.
            missing = isinstance(error, IndexError | KeyError)
            what = f"{verb}: something is missing: {error}" if missing else str(error)
            raise ScenarioError(f"transcript line {line.number}: {what}") from error
        if self.alive and verb not in ("away", "end"):
            self.settle(line.at_ns)

    def hear_frame(self, at_ns: int, interface: str, frame: bytes, name: str) -> str:
        """Receives one frame and returns its verdict; a refusal is written for `name`."""
        verdict = self.engine.receive(self.numbers[interface], frame, self._clock(at_ns))
        if verdict not in ("ok", "not_carp"):
            self.write(at_ns, name, f"refused {verdict}")
        return verdict

    def hear_as_it_came(self, at_ns: int, interface: str, frame: bytes, name: str) -> None:
        """Receives one frame at its time and writes the results."""
        self.run(at_ns)
        if self.alive:
            self.hear_frame(at_ns, interface, frame, name)
            self.settle(at_ns)

    def subject(self, line: Line) -> str:
        """The virtual host that a line is about. Raises ValueError."""
        name = line.name or (next(iter(self.hosts)) if len(self.hosts) == 1 else "")
        if name not in self.hosts:
            raise ValueError(f"no virtual host {name!r} in this scenario")
        return name

    def _interface(self, line: Line) -> str:
        name = line.name or (next(iter(self.numbers)) if len(self.numbers) == 1 else "")
        if name not in self.numbers:
            raise ValueError(f"no interface {name!r} in this scenario")
        return name

    def _on_hear(self, line: Line, words: list[str]) -> None:
        name = line.name or self.subject(line)
        host = self.hosts.get(name)
        if host is None:  # a vhid without a virtual host, or an interface
            interface, _, vhid = name.partition("/")
            host = {**scenarios.HOST_DEFAULTS, "interface": interface, "vhid": int(vhid or 1)}
        if host["interface"] not in self.numbers:
            raise ValueError(f"no interface {host['interface']!r} in this scenario")
        source = b"\0" * 4 if words[0] == "-" else address_bytes(words[0])
        passphrase = self.passphrases.get(name, host["passphrase"])
        rest, spoil = words[2:], ""
        if "/" in words[1]:
            advbase, advskew = map(int, words[1].split("/"))
        else:
            advbase, advskew, spoil = 1, 0, words[1]
            if spoil not in frames.SPOILED:
                allowed = ", ".join(frames.SPOILED)
                raise ValueError(f"{spoil}: neither ADVBASE/ADVSKEW nor one of {allowed}")
        if len(rest) % 2:
            passphrase, *rest = rest
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        self.counter += 1
        addresses = [prefix_bytes(text)[0] for text in host["addresses"]]
        lladdr = mac_bytes(host["lladdr"]) if "lladdr" in host else None
        dialect = host.get("dialect", "ucarp")
        (_, message), *_ = signed_forms(host["vhid"], addresses, dialect=dialect, lladdr=lladdr)
        carp = frames.carp_header(
            Key(passphrase.encode(), message),
            vhid=host["vhid"],
            advbase=advbase,
            advskew=advskew,
            demote=int(options.pop("demote", 0)),
            counter=int(options.pop("counter", self.counter)),
            spoil=spoil,
        )
        mac = mac_bytes(options.pop("mac", scenarios.HEARD_MAC))
        to = options.pop("to", None)
        destination = self._destination(host, source) if to is None else address_bytes(to)
        if options:
            raise ValueError(f"hear: unknown {next(iter(options))}")
        frame = frames.advertisement(
            carp, source=source, destination=destination, mac=mac, spoil=spoil
        )
        self.hear_frame(line.at_ns, host["interface"], frame, name)

    def _destination(self, host: dict[str, Any], source: bytes) -> bytes:
        """The address to which others send: the group, or the source of this host."""
        key = "source" if len(source) == 4 else "source6"
        if host.get("peers"):
            own: bytes | None = self.interfaces[host["interface"]][key]
            if key in host and host["interface"] in self.scenario.interfaces:
                own = address_bytes(host[key])
            if own is None:
                raise ValueError(f"the interface has no {key} to which peers could send")
            return own
        return address_bytes(
            host.get("destination" if len(source) == 4 else "destination6", GROUPS[len(source)])
        )

    def _on_link(self, line: Line, words: list[str]) -> None:
        if words not in (["up"], ["down"]):
            raise ValueError("link: must be up or down")
        name = self._interface(line)
        self.interfaces[name].update(up=words == ["up"], announce=False)
        self._set_interface(line, name)

    def _on_interface(self, line: Line, words: list[str]) -> None:
        name = self._interface(line)
        now = self.interfaces[name]
        if words[0] not in ("up", "down", "missing"):
            raise ValueError("interface: must be up, down or missing")
        now.update(up=words[0] == "up", source=None, source6=None)
        rest = [word for word in words[1:] if word not in INTERFACE_FLAGS]
        for word, key in INTERFACE_FLAGS.items():
            now[key] = word in words
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        for key in ("source", "source6"):
            if key in options:
                now[key] = address_bytes(options.pop(key))
        if "mac" in options:
            now["mac"] = mac_bytes(options.pop("mac"))
        now["ifindex"] = 0 if words[0] == "missing" else int(options.pop("ifindex", 1))
        if options:
            raise ValueError(f"interface: unknown {next(iter(options))}")
        self._set_interface(line, name)

    def _set_interface(self, line: Line, name: str) -> None:
        if self.alive:
            now_ns = self._clock(line.at_ns)
            self.engine.set_interface(self.numbers[name], now_ns, **self.interfaces[name])

    def _on_demote(self, line: Line, words: list[str]) -> None:
        slot, (amount, *rest) = self.slots[self.subject(line)], words
        hard = rest[1:] == ["hard"]
        by = "".join(rest[:1] if hard else rest) or "operator"
        self.engine.demote(slot, int(amount), self._clock(line.at_ns), by, hard=hard)

    def _on_yield(self, line: Line, words: list[str]) -> None:
        slot = self.slots[self.subject(line)]
        self.engine.hand_over(slot, self._clock(line.at_ns), "".join(words) or "yielded")

    def _on_preempt(self, line: Line, words: list[str]) -> None:
        self.engine.take_over(self.slots[self.subject(line)], self._clock(line.at_ns))

    def _on_withhold(self, line: Line, words: list[str]) -> None:
        slot, withheld = self.slots[self.subject(line)], ("no", "yes").index(words[0])
        self.engine.withhold(slot, bool(withheld), self._clock(line.at_ns))

    def _on_remove(self, line: Line, words: list[str]) -> None:
        self.engine.remove(self.slots[self.subject(line)], self._clock(line.at_ns))

    def _on_address_lost(self, line: Line, words: list[str]) -> None:
        if words not in ([], ["undemoted"]):
            raise ValueError("address_lost: must be followed by undemoted or nothing")
        slot = self.slots[self.subject(line)]
        self.engine.lose_address(slot, self._clock(line.at_ns), demoted=not words)

    def _on_found(self, line: Line, words: list[str]) -> None:
        address, there = words
        if there not in THERE_WORDS:
            raise ValueError(f"found: {there}: must be one of {', '.join(THERE_WORDS)}")
        slot = self.slots[self.subject(line)]
        self.engine.found(slot, address_bytes(address), there, self._clock(line.at_ns))

    def _on_own_source(self, line: Line, words: list[str]) -> None:
        if words[0] not in ("there", "missing") or (words[0] == "there") != (len(words) == 1):
            raise ValueError("own_source: must be there, or missing and families")
        self.engine.set_own_source(
            self.slots[self.subject(line)],
            self._clock(line.at_ns),
            missing="4" in words,
            missing6="6" in words,
        )

    def _on_by_route(self, line: Line, words: list[str]) -> None:
        slot, by_route = self.slots[self.subject(line)], ("no", "yes").index(words[0])
        self.engine.set_by_route(slot, bool(by_route), self._clock(line.at_ns))

    def _on_adopt(self, line: Line, words: list[str]) -> None:
        (address,) = words
        slot = self.slots[self.subject(line)]
        self.engine.adopt(slot, *prefix_bytes(address), self._clock(line.at_ns))

    def _on_announce(self, line: Line, words: list[str]) -> None:
        self.engine.announce(self.slots[self.subject(line)], self._clock(line.at_ns))

    def _on_in_use(self, line: Line, words: list[str]) -> None:
        slot, barred = self.slots[self.subject(line)], ("no", "yes").index(words[0])
        self.engine.bar(slot, bool(barred), self._clock(line.at_ns))

    def _on_reload(self, line: Line, words: list[str]) -> None:
        name, grace_s = self.subject(line), "0"
        if words and "=" not in words[0]:
            self.hosts[name]["passphrase"], grace_s, *words = words
        for word in words:
            key, _, value = word.partition("=")
            if key not in scenarios.HOST_KEYS:
                raise ValueError(f"reload: {key}: unknown key")
            self.hosts[name][key] = tomllib.loads(f"value = {value}")["value"]
        if self.alive:
            now_ns, grace_ns = self._clock(line.at_ns), int(grace_s) * SECOND_NS
            self.engine.replace(self.slots[name], self._prepared(name), now_ns, grace_ns=grace_ns)

    def _on_kernel(self, line: Line, words: list[str]) -> None:
        what, answer, *frames_refused = words
        slot = self.slots[self.subject(line)]
        address = None if what == "sends" else address_bytes(what)
        number = 0 if answer == "ok" else getattr(errno, answer, None)
        if number is None:
            raise ValueError(f"kernel: {answer}: must be ok or the name of an error such as EEXIST")
        self.errors[slot, address] = number
        if what == "sends":
            self.errors[slot, "frames"] = int(*frames_refused)
        elif frames_refused:
            raise ValueError("kernel: only sends takes a number of frames")

    def _on_begin(self, line: Line, words: list[str]) -> None:
        self._begin(self.subject(line), line.at_ns)

    def _on_resign(self, line: Line, words: list[str]) -> None:
        self.engine.resign_all(self._clock(line.at_ns))

    def _on_stall(self, line: Line, words: list[str]) -> None:
        self.back_ns = line.at_ns
        since_ns, asleep_ns = self._since(words), seconds_ns(words[1])[0] if words[1:] else 0
        if since_ns is None and self.away_ns is not None:
            since_ns = self._clock(self.away_ns)
        self.away_ns = None
        self.engine.stall(self._clock(line.at_ns), since_ns, asleep_ns)

    def _on_drop(self, line: Line, words: list[str]) -> None:
        self.engine.drop(self._clock(line.at_ns), self._since(words))

    def _since(self, words: list[str]) -> int | None:
        return self._clock(seconds_ns(words[0])[0]) if words else None

    def _on_kill(self, line: Line, words: list[str]) -> None:
        self.alive = False

    def _on_start(self, line: Line, words: list[str]) -> None:
        if self.alive:
            raise ValueError("start: the process was not killed")
        self.start(line.at_ns)

    def _on_turn(self, line: Line, words: list[str]) -> None:
        heard_ns = seconds_ns(words[0])[0] if words else line.at_ns
        self.engine.expire(self._clock(line.at_ns), self._clock(heard_ns))
        self.carry_out(line.at_ns)

    def _on_away(self, line: Line, words: list[str]) -> None:
        """Begins an absence, during which run() expires no deadline."""
        self.away_ns = line.at_ns

    def _on_end(self, line: Line, words: list[str]) -> None:
        """Ends the scenario."""


def check_settings(host: dict[str, Any]) -> None:
    """Raises ScenarioError for a setting that a configuration could not have."""
    for key in SETTING_RULES.keys() & host.keys():
        try:
            SETTING_RULES[key](host[key])
        except Refused as refused:
            where = f"{host['name']}: {key} = {as_shown(host[key])}"
            raise ScenarioError(f"{where}: {refused}") from refused


def play(scenario: Scenario) -> list[Output]:
    """Gives the inputs of a scenario to an engine and returns all its decisions.

    Raises ScenarioError naming the line.
    """
    for host in scenario.hosts:
        check_settings(host)
    try:
        player = Player(scenario)
        player.start(0)
    except (ValueError, TypeError, OverflowError, LookupError, AttributeError) as error:
        raise ScenarioError(f"host: {error}") from error
    for line in scenario.lines:
        if not line.output:
            player.give(line)
    return player.outputs
