"""`flood --sink`: which options go together, and what is printed of a trial and a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from carp_fast.cli import main as cli
from carp_fast.cli import trial as cli_trial
from carp_fast.cli.trial import TrialOptions, trial_options
from carp_fast.loadtest.receiver import Latency
from carp_fast.loadtest.search import Search
from carp_fast.loadtest.trial import Sent, Trial, compare
from tests.support.transfers import WHERE, A, B, Wire, flow, received

taken: list[TrialOptions | None] = []


@click.command()
@trial_options
def command(**values: Any) -> None:
    taken.append(TrialOptions.of(values))


def options_of(*words: str) -> TrialOptions | None:
    result = CliRunner().invoke(command, words, standalone_mode=False)
    if result.exception:
        raise result.exception
    return taken.pop()


def test_options_of_a_trial_become_its_settings() -> None:
    assert options_of() is None
    assert options_of("--sink", "s2") == TrialOptions(
        "s2", None, False, 0.0, 1_000.0, 1_000_000.0, 2.0, 10.0, None
    )
    words = "--sink s2 --sink-netns b --find-rate --loss 0.1 --from-rate 5 --to-rate 50"
    words += " --step-duration 0.5 --confirm-duration 3"
    assert options_of(*words.split(), "--plot", "x.svg") == TrialOptions(
        "s2", "b", True, 0.001, 5.0, 50.0, 0.5, 3.0, Path("x.svg")
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--sink-netns b", "--sink-netns needs --sink IF"),
        ("--find-rate", "--find-rate needs --sink IF"),
        ("--plot x.svg", "--plot needs --sink IF"),
        ("--loss 0", "--loss needs --sink IF"),
        ("--sink s2 --loss 0", "--loss needs --find-rate"),
        ("--sink s2 --plot x.svg", "--plot needs --find-rate"),
        ("--sink s2 --find-rate --from-rate 2e6", "--from-rate 2,000,000 is not below --to-rate"),
        ("--sink s2 --find-rate --loss 100", "100.0 is not in the range 0<=x<100"),
        ("--sink s2 --find-rate --confirm-duration 1", "is below --step-duration 2"),
        ("--sink s2 --find-rate --step-duration 0", "0.0 is not in the range x>0"),
    ],
)
def test_what_does_not_go_together(words: str, said: str) -> None:
    with pytest.raises(click.UsageError, match=said):
        options_of(*words.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--election", "--election needs --hosts N"),
        ("--hosts 4 --mix ok", "--hosts cannot be combined with --mix"),
        ("--hosts 4 --sink s2", "--hosts cannot be combined with --sink"),
        ("--sink s2 --from x.pcap", "--sink cannot be combined with --from"),
        ("--sink s2 --write x.pcap", "--sink cannot be combined with --write"),
        ("--sink s2 --find-rate --duration 5", "--find-rate cannot be combined with --duration"),
        ("--sink s2 --find-rate --rate max", "--find-rate cannot be combined with --rate"),
        ("--write -", "--write -: name a file"),
        *(
            (f"--sink lo --i-own-this-network --counter {walk}", "cannot be told from duplicates")
            for walk in ("5-9", "fixed:7", "random:1-9", "3,5,9", "1-1000000/2")
        ),
    ],
)
def test_what_does_not_go_together_in_a_flood(words: str, said: str) -> None:
    arguments = ["flood", "-i", "nosuch0", *words.split()]
    result = CliRunner().invoke(cli.main, arguments, prog_name="carp-fast")
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_a_trial_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    trial = compare(
        Sent(frames=155, seconds=2.0, by_source={A: 100, B: 50}, uncounted={("arp", None): 5}),
        received(
            frames=148,
            by_source=[
                flow(*A, 90),
                flow(*B, 55, duplicates=5),
                flow("10.1.0.9", 7, *WHERE, 3),
            ],
            latency=Latency(9, 1_500, 2_500, 3_500),
            kernel_dropped=4,
            left_out=1,
        ),
    )
    cli_trial.print_trial(trial)
    assert capsys.readouterr().out.splitlines() == [
        "source      vhid  destination  vlan  sent  arrived  lost  duplicates  reordered",
        "10.1.0.1    1     224.0.0.18   -     100   90       10    0           0",
        "10.1.0.2    1     224.0.0.18   -     50    50       0     5           0",
        "no counter  -     -            -     5     0        5     0           0",
        "",
        "155 frames sent in 2.00 s, 78/s; 141 arrived; lost on the way: 10 (6.4516 %)",
        "dropped by the receiver: 4 by the socket, 0 by the interface",
        "latency: p50 1.5 us, p99 2.5 us, max 3.5 us",
        "1 frames arrived and are in no row: the receiver's table is full",
        "5 frames arrived more often than they were sent",
        "3 frames came from other senders",
    ]


def test_stamps_that_do_not_arrive() -> None:
    sent = Sent(frames=10, seconds=1.0, by_source={A: 10}, stamped=True)
    cut = compare(sent, received(frames=10, by_source=[flow(*A, 10)]))
    assert list(cli_trial.trial_lines(cut))[-1].startswith("no latency: something on the way cuts")


def test_a_sender_that_was_held_up_is_named_with_the_loss() -> None:
    sent = Sent(frames=10, seconds=1.0, by_source={A: 10}, late=4)
    lines = list(cli_trial.trial_lines(compare(sent, received(by_source=[flow(*A, 9)]))))
    assert lines[-1].startswith("4 frames left more than 1 ms late and in bursts")
    lines = list(cli_trial.trial_lines(compare(sent, received(by_source=[flow(*A, 10)]))))
    assert not any("late" in line for line in lines)


CONFIRMED = "confirmed for 5 s"


@pytest.mark.parametrize(
    ("wire", "lines"),
    [
        (
            Wire(2e6),
            ["no loss up to 1,000,000 frames/s, the highest", CONFIRMED, "(--to-rate)"],
        ),
        (
            Wire(2e6, most=5e5),
            ["no loss up to 500,000 frames/s", CONFIRMED, "cannot send faster"],
        ),
        (Wire(500), ["no rate with no loss: 1,000 frames/s already lost more"]),
    ],
)
def test_the_end_of_a_search(wire: Wire, lines: list[str]) -> None:
    said = list(cli_trial.found_lines(Search(wire.attempt, 1_000, 1_000_000).run()))
    assert len(said) == len(lines)
    assert all(part in line for part, line in zip(lines, said, strict=True))


def test_each_step_is_a_line() -> None:
    told: list[str] = []
    wire = Wire(100_000)
    search = Search(wire.attempt, 1_000, 400_000)
    search.show = lambda trial, passed: told.append(cli_trial.step_line(len(told), trial, passed))
    said = list(cli_trial.found_lines(search.run()))
    assert told[0] == (
        "step  0  asked     400,000/s  sent     400,000/s"
        "  lost   300,000 (75.0000 %)  lost too much"
    )
    assert told[1].endswith("lost         0 (0.0000 %)  passed")
    assert said[0].startswith("no loss up to 99,")
    assert said[1:] == [CONFIRMED]
    trial = msgspec.structs.replace(wire.attempt(90_000), queued=0.0125)
    assert cli_trial.step_line(1, trial, passed=False).endswith("  queues grew (1.25 %)")
    trial = msgspec.structs.replace(wire.attempt(110_000), sent_late=7)
    discarded = cli_trial.step_line(1, trial, passed=None)
    assert discarded.endswith("  discarded, the sender was held up")


def test_a_search_that_stalls_spoiled_says_so() -> None:
    wire = Wire(100_000)

    def attempt(rate: float, seconds: float) -> Trial:
        return msgspec.structs.replace(wire.attempt(rate, seconds), sent_late=10**9)

    said = list(cli_trial.found_lines(Search(attempt, 1_000, 400_000).run()))
    assert said[0] == "no rate was tried to the end"
    assert "this host is too busy" in said[1]
    assert said[2] == "steps repeated, since the sender was held up: 5"
