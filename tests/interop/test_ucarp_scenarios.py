"""The same scenarios run against ucarp and against carp-fast in its place, and compared.

Each scenario is a function that plays with one program on its own segment and returns transcripts:
the log without times, the script calls with their arguments, the exit code.  Both programs play at
the same time.  Where the transcripts are equal to the last line, the test says so; where ours is
better on purpose, it says how.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from carp_fast.lab.lab import Lab
from tests.support.dropin import DEADLINE_S, PROGRAMS, Ear, Stage, Transcript, need_ucarp
from tests.support.punctual import before_others

pytestmark = pytest.mark.root

Scenario = Callable[[Stage], list[Transcript]]

START = [
    "[INFO] Local advertised ethernet address is [MAC]",
    "[WARNING] Switching to state: BACKUP",
]
DOWN = "[WARNING] Spawning [DIR/down IF VIP]"
UP = "[WARNING] Spawning [DIR/up IF VIP]"
MASTER = "[WARNING] Switching to state: MASTER"
BACKUP = "[WARNING] Switching to state: BACKUP"
# In the debug log of each, when it hears what is sent: the down script may have run before that.
LISTENING = {"ucarp": "BPF rule: ", "carp-fast": "INIT -> BACKUP (started)"}


@pytest.fixture
def play(
    lab_factory: Callable[..., Lab], program: Callable[[str], str]
) -> Callable[[Scenario], dict[str, list[Transcript]]]:
    """Plays a scenario with both programs; gives the transcripts by program."""
    need_ucarp(program)
    lab = lab_factory("carp-fast-ucarp", hosts=("a", "b"), segments=2)

    def both(scenario: Scenario) -> dict[str, list[Transcript]]:
        stages = [Stage(lab, name, 1 + index) for index, name in enumerate(PROGRAMS)]
        with ThreadPoolExecutor(len(stages)) as threads:
            played = list(threads.map(scenario, stages))
        return dict(zip(PROGRAMS, played, strict=True))

    return both


Play = Callable[[Scenario], dict[str, list[Transcript]]]


def alone(stage: Stage) -> list[Transcript]:
    """Alone on the wire: BACKUP, MASTER, asked for its state twice, ended by SIGTERM."""
    one = stage.start("-z", "-x", "a parameter")
    one.wait_calls("down", 1)
    one.process.signal(signal.SIGUSR1)
    one.wait_line("BACKUP on")
    one.wait_master()
    one.process.signal(signal.SIGUSR1)
    one.wait_line("MASTER on")
    return [one.transcript(one.end())]


def test_a_host_alone_becomes_master_as_ucarp_does(play: Play) -> None:
    played = play(alone)
    assert played["carp-fast"] == played["ucarp"]
    [transcript] = played["carp-fast"]
    down = "[WARNING] Spawning [DIR/down IF VIP a parameter]"
    up = "[WARNING] Spawning [DIR/up IF VIP a parameter]"
    assert transcript.lines == [
        *START,
        down,
        "[INFO] BACKUP on IF id 7",
        MASTER,
        up,
        "[INFO] MASTER on IF id 7",
        down,
    ]
    assert transcript.calls == [
        "down IF VIP a parameter",
        "up IF VIP a parameter",
        "down IF VIP a parameter",
    ]
    assert transcript.exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP])
def test_each_signal_while_backup_and_without_shutdown(play: Play, number: signal.Signals) -> None:
    """With -z a BACKUP ends with 0 and no script; without it the signal itself ends the process,
    here while it is MASTER, and the address stays up.
    """

    def ended(stage: Stage) -> list[Transcript]:
        backup = stage.start("-z", "--neutral")
        backup.wait_line("Switching to state: BACKUP")
        master = stage.start("-n", host="b")
        first = backup.transcript(backup.end(number))
        master.wait_master()
        return [first, master.transcript(master.end(number))]

    played = play(ended)
    assert played["carp-fast"] == played["ucarp"]
    backup, master = played["carp-fast"]
    assert (backup.lines, backup.calls, backup.exit_code) == (START, [], 0)
    assert (master.lines, master.calls) == ([*START, MASTER, UP], ["up IF VIP"])
    assert master.exit_code == -number


def test_usr2_gives_up_for_three_seconds(play: Play) -> None:
    """Down script at once, silence for three seconds and a master-down time, then MASTER again."""
    took_s: dict[str, float] = {}

    def demoted(stage: Stage) -> list[Transcript]:
        one = stage.start("-z")
        one.wait_master()
        one.process.signal(signal.SIGUSR2)
        one.wait_master(2)  # another signal before that would end the three seconds of ucarp
        calls = one.calls
        took_s[stage.program] = calls[-1].at_s - calls[-2].at_s
        return [one.transcript(one.end())]

    with before_others():  # a daemon that did not run for a second waits longer, and logs it
        played = play(demoted)
    print(took_s)
    assert played["carp-fast"] == played["ucarp"]
    [transcript] = played["carp-fast"]
    assert transcript.lines == [*START, DOWN, MASTER, UP, BACKUP, DOWN, MASTER, UP, DOWN]
    assert 6.0 <= took_s["carp-fast"] <= 6.5
    assert took_s["ucarp"] >= 6.0


def test_usr2_hands_over(play: Play) -> None:
    """To a backup: at once, by a resignation, where ucarp leaves it to wait."""
    took_s: dict[str, float] = {}

    def handed(stage: Stage) -> list[Transcript]:
        first = stage.start("-z")
        first.wait_master()
        second = stage.start("-z", "-k", "50", "--debug", host="b")
        second.wait_line(LISTENING[stage.program])
        first.process.signal(signal.SIGUSR2)
        second.wait_master()
        took_s[stage.program] = second.calls[-1].at_s - first.calls[-1].at_s
        return [first.transcript(first.end()), second.transcript(second.end())]

    played = play(handed)
    print(took_s)
    resigned = "[WARNING] Putting MASTER DOWN (going to time out)"
    for name, (first, second) in played.items():
        assert first.lines == [*START, DOWN, MASTER, UP, BACKUP, DOWN], name
        told = [resigned] if name == "carp-fast" else []
        lines = [line for line in second.lines if not line.startswith("[DEBUG]")]
        assert lines == [*START, DOWN, MASTER, UP, *told, DOWN], name
    assert took_s["carp-fast"] <= 1
    assert took_s["ucarp"] >= 2


def test_usr2_means_nothing_to_a_backup(play: Play) -> None:
    def asked(stage: Stage) -> list[Transcript]:
        one = stage.start("-z", "-n")
        one.wait_line("Switching to state: BACKUP")
        one.process.signal(signal.SIGUSR2)
        one.wait_master()
        return [one.transcript(one.end())]

    played = play(asked)
    assert played["carp-fast"] == played["ucarp"]
    assert played["carp-fast"][0].lines == [*START, MASTER, UP, DOWN]


def preempted(stage: Stage) -> list[Transcript]:
    """A slow master, and a faster host that preempts."""
    slow = stage.start("-z", "-k", "100")
    slow.wait_master()
    fast = stage.start("-z", "-k", "10", "-P", host="b")
    fast.wait_master()
    slow.wait_line("Preferred master advertised")
    fast.wait_line("Non-preferred master advertising")
    return [slow.transcript(slow.end()), fast.transcript(fast.end())]


def test_a_preferred_host_takes_over_as_ucarp_does(play: Play) -> None:
    played = play(preempted)
    reasserting = (
        "[WARNING] Non-preferred master advertising: reasserting control of VIP with another"
        " gratuitous arp"
    )
    for name, (slow, fast) in played.items():
        assert slow.lines == [
            *[*START, DOWN, MASTER, UP, BACKUP, DOWN],
            "[WARNING] Preferred master advertised: going back to BACKUP state",
        ], name
        # ucarp says it for each advertisement, carp-fast once a minute.
        said = [line for line in fast.lines if line == reasserting]
        assert len(said) == 1 or (name == "ucarp" and said)
        assert [line for line in fast.lines if line != reasserting] == [
            *[*START, DOWN, MASTER, UP],
            "[WARNING] Putting MASTER down - preemption",
            DOWN,
        ], name
        assert slow.calls == ["down IF VIP", "up IF VIP", "down IF VIP"]
        assert fast.calls == ["down IF VIP", "up IF VIP", "down IF VIP"]
        assert (slow.exit_code, fast.exit_code) == (0, 0)


def test_without_preempt_the_master_stays(play: Play) -> None:
    def stays(stage: Stage) -> list[Transcript]:
        slow = stage.start("-z", "-k", "100")
        slow.wait_master()
        with Ear(stage.lab["b"], stage.segment) as ear:
            fast = stage.start("-z", host="b")
            fast.wait_line("Switching to state: BACKUP")
            ear.frames(5)
        return [fast.transcript(fast.end()), slow.transcript(slow.end())]

    played = play(stays)
    assert played["carp-fast"] == played["ucarp"]
    fast, slow = played["carp-fast"]
    assert (fast.lines, fast.calls) == ([*START, DOWN], ["down IF VIP"])
    assert slow.lines == [*START, DOWN, MASTER, UP, DOWN]


def test_a_link_that_goes_and_comes(play: Play) -> None:
    """Without carrier the address goes; with --ignoreifstate nothing happens."""
    away_s: dict[str, float] = {}

    def unplugged(stage: Stage) -> list[Transcript]:
        one = stage.start("-z")
        one.wait_master()
        stage.lab.set_carrier("a", stage.segment, up=False)
        one.wait_calls("down", 2)
        stage.lab.set_carrier("a", stage.segment, up=True)
        one.wait_master(2, deadline_s=20)
        away_s[stage.program] = one.calls[-1].at_s - one.calls[-2].at_s
        return [one.transcript(one.end())]

    played = play(unplugged)
    print(away_s)
    [ours], [theirs] = played["carp-fast"], played["ucarp"]
    ours.lines.remove("[WARNING] IF: link down")  # ucarp does not say why it steps down
    assert ours == theirs
    assert ours.lines == [*START, DOWN, MASTER, UP, BACKUP, DOWN, MASTER, UP, DOWN]
    # ucarp looks at the interface every ten seconds once it is down.
    assert away_s["carp-fast"] <= 4.5
    assert away_s["ucarp"] >= 9


def test_ignoreifstate_keeps_a_master_without_a_carrier(play: Play) -> None:
    def ignoring(stage: Stage) -> list[Transcript]:
        one = stage.start("-z", "-S")
        one.wait_master()
        stage.lab.set_carrier("a", stage.segment, up=False)
        for count in (1, 2, 3):
            one.process.signal(signal.SIGUSR1)
            one.wait_line("MASTER on", count)
        return [one.transcript(one.end())]

    played = play(ignoring)
    for name, [transcript] in played.items():
        # What cannot be sent is said by either, once or at each attempt.
        lines = [line for line in transcript.lines if "write()" not in line]
        lines = [line for line in lines if not line.startswith("[WARNING] IF: link down")]
        asked = "[INFO] MASTER on IF id 7"
        assert lines == [*START, DOWN, MASTER, UP, asked, asked, asked, DOWN], name


def test_an_interface_that_vanishes(play: Play) -> None:
    """ucarp ends with exit code 0; carp-fast waits for it to come back."""

    def vanishing(stage: Stage) -> list[Transcript]:
        with Ear(stage.lab["b"], stage.segment) as ear:
            one = stage.start("-z")
            one.wait_master()
            ear.frames(2)  # ucarp does not notice while it announces its address
        stage.lab.delete_interface("a", stage.segment)
        one.wait_calls("down", 2)
        if stage.program == "ucarp":
            return [one.transcript(one.process.wait(DEADLINE_S))]
        stage.lab.recreate_interface(stage.segment)
        one.wait_master(2)
        return [one.transcript(one.end())]

    played = play(vanishing)
    [theirs], [ours] = played["ucarp"], played["carp-fast"]
    assert theirs.exit_code == ours.exit_code == 0
    assert theirs.calls == ["down IF VIP", "up IF VIP", "down IF VIP"]
    assert ours.calls == [*theirs.calls, "up IF VIP", "down IF VIP"]
    assert "[WARNING] IF: interface disappeared, waiting for it" in ours.lines


def test_a_script_that_cannot_be_run(play: Play) -> None:
    def missing(stage: Stage) -> list[Transcript]:
        one = stage.start("-z", "-u", "/nonexistent/up", "-d", "/etc/passwd", scripts=False)
        one.wait_line("Unable to exec", 2)
        return [one.transcript(one.end())]

    played = play(missing)
    for name, [transcript] in played.items():
        # The child of ucarp writes its line when it can.
        assert sorted(transcript.lines) == sorted(
            [
                *START,
                "[WARNING] Spawning [/etc/passwd IF VIP]",
                "[ERROR] Unable to exec /etc/passwd IF VIP: Permission denied",
                MASTER,
                "[WARNING] Spawning [/nonexistent/up IF VIP]",
                "[ERROR] Unable to exec /nonexistent/up IF VIP: No such file or directory",
                "[WARNING] Spawning [/etc/passwd IF VIP]",
                "[ERROR] Unable to exec /etc/passwd IF VIP: Permission denied",
            ]
        ), name
        assert transcript.exit_code == 0


def test_a_script_that_hangs_does_not_stop_advertisements(play: Play) -> None:
    """Better than ucarp, which sends nothing until its up script has ended."""
    heard: dict[str, int] = {}

    def hangs(stage: Stage) -> list[Transcript]:
        with Ear(stage.lab["b"], stage.segment) as ear:
            one = stage.start("-z", "-n", body="exec sleep 11")
            one.wait_master()
            if stage.program == "carp-fast":
                one.wait_line("still running after 10 s", deadline_s=15)
            else:
                one.process.signal(signal.SIGUSR1)  # answered when the script has ended
                one.wait_line("MASTER on", deadline_s=15)
            heard[stage.program] = ear.waiting()
            one.process.kill()
        return [one.transcript()]

    played = play(hangs)
    print(heard)
    assert heard["ucarp"] <= 2  # none while the script ran
    assert heard["carp-fast"] >= 10
    assert played["carp-fast"][0].lines == [
        *START, MASTER, UP, "[WARNING] [DIR/up IF VIP] is still running after 10 s"
    ]  # fmt: skip


def test_hosts_with_other_passwords_report_it_and_both_are_master(play: Play) -> None:
    """Said by a BACKUP and by a MASTER; each then masters for itself."""

    def other(stage: Stage) -> list[Transcript]:
        first = stage.start("-z")
        first.wait_master()
        second = stage.start("-z", "--pass", "another", host="b")
        second.wait_line("Bad digest")
        second.wait_master()
        first.wait_line("Bad digest")
        return [first.transcript(first.end()), second.transcript(second.end())]

    played = play(other)
    for name, transcripts in played.items():
        for transcript in transcripts:
            told = [line for line in transcript.lines if "Bad digest" in line]
            assert all(line.startswith("[WARNING] Bad digest - ") for line in told)
            assert all(
                line.endswith(" - Check vhid, password and virtual IP address") for line in told
            )
            rest = [line for line in transcript.lines if line not in told]
            assert rest == [*START, DOWN, MASTER, UP, DOWN], name
