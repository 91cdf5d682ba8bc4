"""The demo's plan, configuration files and verdicts; its course is an integration test."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from carp_fast.config import load as config
from carp_fast.lab import demo, fleet
from carp_fast.lab.demo import Outcome, Sample, run_demo
from carp_fast.lab.fleet import configuration, keys_of, spread
from carp_fast.lab.lab import virtual_address
from carp_fast.lab.observer import Key


@pytest.mark.parametrize(
    ("instances", "segments", "expected"),
    [
        (1000, 4, {1: 250, 2: 250, 3: 250, 4: 250}),
        (1001, 4, {1: 251, 2: 250, 3: 250, 4: 250}),
        (2, 4, {1: 1, 2: 1}),
        (255, 1, {1: 255}),
    ],
)
def test_virtual_hosts_spread_evenly(
    instances: int, segments: int, expected: dict[int, int]
) -> None:
    assert spread(instances, segments) == expected
    assert len(keys_of(spread(instances, segments))) == instances


@pytest.mark.parametrize(("instances", "segments"), [(1000, 4), (1, 1), (1021, 5), (600, 256)])
@pytest.mark.parametrize("host", ["a", "b"])
def test_the_configuration_makes_the_virtual_hosts_that_are_awaited(
    tmp_path: Path, instances: int, segments: int, host: str
) -> None:
    counts = spread(instances, segments)
    secret = tmp_path / f"passphrase-{host}"
    secret.touch(mode=0o600)
    secret.write_text(f"{fleet.PASSPHRASE}\n")
    path = tmp_path / "host.toml"
    path.write_text(configuration(counts, tmp_path, host))
    made = config.load(path)
    assert not made.warnings
    expected = {
        (f"s{key.segment}", key.vhid, (virtual_address(*key) + "/32",)) for key in keys_of(counts)
    }
    assert {(v.interface, v.vhid, v.addresses) for v in made.virtual_hosts} == expected
    assert len(made.virtual_hosts) == instances
    settings = made.virtual_hosts[0].settings
    assert (settings.advbase, settings.dead_ratio) == (fleet.ADVBASE, fleet.DEAD_RATIO)
    assert settings.advskew == {"a": 0, "b": 100}[host]
    assert settings.passphrase == fleet.PASSPHRASE.encode()


def outcome() -> Outcome:
    keys = {Key(1, 1), Key(1, 2), Key(2, 1)}
    addresses = {(key.segment, virtual_address(*key)) for key in keys}
    return Outcome(
        keys=keys,
        silences_s=dict.fromkeys(keys, demo.TIMEOUT_S + 0.01),
        held=set(addresses),
        still_held=set(addresses),
        announced=set(addresses),
        announcements=6,
        samples={"a": Sample(1.25, 30 << 20), "b": Sample(0.5, 20 << 20)},
        frames_lost=0,
    )


def test_a_take_over_within_the_goals_has_no_faults() -> None:
    assert outcome().faults() == []


def test_every_goal_that_is_missed_is_named() -> None:
    missed = outcome()
    missed.silences_s = {Key(1, 1): 3.4501, Key(1, 2): 3.3401}
    missed.held.remove((2, "10.2.1.1"))
    missed.announced.clear()
    missed.frames_lost = 7
    assert missed.faults() == [
        "1 of 3 virtual hosts were not taken over",
        "longest silence 3.450 s, over 3.441 s",
        "taken over after 3.340 s, before the timeout was over",
        "1 of 3 addresses did not move to host b",
        "3 of 3 addresses were not announced",
        "the observer lost 7 frames: the figures are not whole",
    ]


def test_nothing_taken_over_at_all_is_a_fault_and_still_a_table() -> None:
    nothing = outcome()
    nothing.silences_s = {}
    assert nothing.faults() == ["3 of 3 virtual hosts were not taken over"]
    assert "silence, maximum" not in shown(nothing)


def shown(result: Outcome) -> str:
    console = Console(file=io.StringIO(), width=100)
    for table in result.tables(plain=True):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_tables_are_plain_in_a_pipe_and_say_all() -> None:
    text = shown(outcome())
    assert text.isascii()
    lines = [line.split() for line in text.splitlines()]
    assert ["silence,", "maximum", "3.401", "s", "<=", "3.441", "s"] in lines
    assert ["addresses", "the", "killed", "host", "still", "has", "3"] in lines
    assert ["a", "3", "MASTER", "1.25", "%", "30.0", "MiB"] in lines
    assert ["b", "3", "BACKUP", "0.50", "%", "20.0", "MiB"] in lines


def test_too_many_virtual_hosts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_demo(Console(file=io.StringIO()), 256, 1) == 1
    error = capsys.readouterr().err
    assert error == "carp-fast demo: 256 virtual hosts do not fit on 1 segments: 255 each\n"


def test_without_root_and_user_namespaces_it_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unshare = tmp_path / "unshare"
    unshare.write_text("#!/bin/sh\necho 'unshare: not permitted' >&2\nexit 1\n")
    unshare.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert run_demo(Console(file=io.StringIO())) == 1
    assert capsys.readouterr().err == (
        "carp-fast demo: needs root, or a kernel that grants users namespaces of their own"
        " (unshare: not permitted)\n"
    )
