"""A scenario played by an engine that records, and what it recorded as a scenario again."""

from __future__ import annotations

from typing import Any

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.engine._engine import Engine
from carp_fast.replay import scenario as scenarios
from carp_fast.replay.player import Output, Player
from carp_fast.replay.recording import Copy, Recorded, as_scenario
from carp_fast.replay.scenario import Scenario

CAPACITY = 1024


class RecordingPlayer(Player):
    """Records from the start; `capacity` records are kept."""

    def __init__(self, scenario: Scenario, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        super().__init__(scenario)

    def make_engine(self) -> Engine:
        engine = super().make_engine()
        engine.record(self.capacity)
        return engine


def played(scenario: Scenario, capacity: int = CAPACITY) -> RecordingPlayer:
    player = RecordingPlayer(scenario, capacity)
    player.start(0)
    for line in scenario.lines:
        if not line.output:
            player.give(line)
    return player


def configured(table: dict[str, Any]) -> VirtualHost:
    """A scenario's host as a daemon has it configured; of the settings, where it sends to."""
    given = {key: table[key] for key in ("destination", "destination6", "lladdr") if key in table}
    return VirtualHost(
        table["interface"],
        table["vhid"],
        tuple(table["addresses"]),
        tuple(table.get("unsigned_addresses", ())),
        Settings(passphrase=b"not to be written", peers=tuple(table.get("peers", ())), **given),
    )


def recording(player: Player, vhid: int | None = None) -> str:
    """What the player's engine recorded, as the text of a scenario."""
    hosts = {
        player.slots[name]: Recorded(configured(table))
        for name, table in player.hosts.items()
        if vhid in (None, table["vhid"])
    }
    copy = Copy(player.engine.records(), 0, 0)
    return "\n".join(as_scenario(copy, hosts, list(player.numbers), ["A test."], vhid))


def outputs_text(outputs: list[Output]) -> list[str]:
    return [f"{scenarios.seconds_text(o.at_ns, 3)} {o.name} {o.text}" for o in outputs]
