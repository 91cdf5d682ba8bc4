"""Scenarios: what one host hears and is told, and everything that it then does, line by line.

Each TOML file beside this one holds `story` (prose), `host` (settings) and `transcript`: lines of
`SECONDS INPUT`, and of `SECONDS > OUTPUT` in the order in which the engine does it. Seconds count
from the start; the transcript must hold all outputs up to its `end`, and none besides.
Inputs:  hear SOURCE ADVBASE/ADVSKEW [PASSPHRASE] | link down | link up | resign | demote N |
         reload PASSPHRASE GRACE_S | stall | away (what is due waits for the next line) | end
Outputs: STATE reason | ADVERTISE ADVBASE/ADVSKEW | RESIGN 255/255 | ADD_ADDRESSES A... |
         REMOVE_ADDRESSES A... | ANNOUNCE A... | refused VERDICT
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from unit.segment import (
    ADDRESS,
    SECOND_NS,
    START_NS,
    VHID,
    advertisement,
    ip,
    read_advertisement,
)

from carp_fast._engine import Engine
from carp_fast._prepared import PreparedHost

FILES = sorted(Path(__file__).parent.glob("*.toml"))


def dotted(address: bytes) -> str:
    return ".".join(str(byte) for byte in address)


class Player:
    """Gives a transcript's inputs to an engine and writes down its outputs."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = {key: value for key, value in settings.items() if key != "source"}
        self.source = ip(settings["source"])
        self.engine = Engine()
        self.counter = 0
        self.away = False
        self.lines: list[str] = []
        self.link(True, START_NS)
        self.engine.add(0, self.prepared(self.settings.pop("passphrase", "secret")), START_NS)
        self.carry_out(START_NS)

    def prepared(self, passphrase: str) -> PreparedHost:
        return PreparedHost(
            interface=0,
            vhid=VHID,
            addresses=[(ADDRESS, 24)],
            passphrase=passphrase.encode(),
            alternates=True,
            **self.settings,
        )

    def link(self, up: bool, now_ns: int) -> None:
        self.engine.set_interface(0, now_ns, up=up, source=self.source)

    def write(self, now_ns: int, text: str) -> None:
        self.lines.append(f"{(now_ns - START_NS) / SECOND_NS:.3f} > {text}")

    def write_states(self, now_ns: int) -> None:
        for report in self.engine.take_reports():
            if report[0] == "state_changed":
                self.write(now_ns, f"{report[3]} {report[5]}")

    def carry_out(self, now_ns: int) -> None:
        self.write_states(now_ns)
        for action, _, content in self.engine.take_actions(now_ns):
            if action in ("ADVERTISE", "RESIGN"):
                said = read_advertisement(content)
                self.write(now_ns, f"{action} {said.advbase}/{said.advskew}")
            elif action == "ANNOUNCE":
                self.write(now_ns, f"ANNOUNCE {' '.join(dotted(arp[28:32]) for arp in content)}")
            else:
                self.write(now_ns, f"{action} {' '.join(dotted(data) for data in content)}")
        self.write_states(now_ns)

    def run(self, until_ns: int) -> None:
        """Let what is due before `until_ns` happen when it is due."""
        while not self.away and (due_ns := self.engine.next_deadline_ns()) is not None:
            if due_ns > until_ns:
                break
            self.engine.expire(due_ns)
            self.carry_out(due_ns)

    def give(self, now_ns: int, verb: str, words: list[str]) -> None:
        self.away = verb == "away"
        if verb == "hear":
            advbase, advskew = words[1].split("/")
            self.counter += 1
            verdict = self.engine.receive(
                0,
                advertisement(
                    source=words[0],
                    advbase=int(advbase),
                    advskew=int(advskew),
                    counter=self.counter,
                    passphrase=words[2].encode() if words[2:] else b"secret",
                ),
                now_ns,
            )
            if verdict != "ok":
                self.write(now_ns, f"refused {verdict}")
        elif verb == "link":
            self.link(words[0] == "up", now_ns)
        elif verb == "resign":
            self.engine.resign_all(now_ns)
        elif verb == "demote":
            self.engine.demote(0, int(words[0]), now_ns)
        elif verb == "reload":
            grace_ns = int(words[1]) * SECOND_NS
            self.engine.replace(0, self.prepared(words[0]), now_ns, grace_ns=grace_ns)
        elif verb == "stall":
            self.engine.stall(now_ns)
        elif verb not in ("away", "end"):
            raise ValueError(f"unknown input {verb!r}")
        self.carry_out(now_ns)


def test_there_are_scenarios() -> None:
    assert len(FILES) >= 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    scenario = tomllib.loads(path.read_text())
    assert set(scenario) == {"story", "host", "transcript"}
    lines = [" ".join(line.split()) for line in scenario["transcript"].strip().splitlines()]
    player = Player(scenario["host"])
    assert lines[-1].split()[1:] == ["end"]
    for line in lines:
        seconds, verb, *words = line.split()
        if verb == ">":
            continue
        now_ns = START_NS + round(float(seconds) * 1_000) * (SECOND_NS // 1_000)
        player.run(now_ns)
        player.give(now_ns, verb, words)
    assert player.lines == [line for line in lines if line.split()[1] == ">"]
