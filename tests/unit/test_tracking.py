"""What tracks make of results, and what a set of them amounts to."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from carp_fast.config.tracks import (
    FileTrack,
    InterfaceTrack,
    PingTrack,
    Probed,
    ProcessTrack,
    ScriptTrack,
    Track,
)
from carp_fast.net.interfaces import Interface, InterfaceAddress, absent
from carp_fast.tracking.interfaces import judged
from carp_fast.tracking.judging import Effect, Judged, Result
from carp_fast.tracking.rounds import phases
from tests.support.followed import Follower

OK, FAILED = Result(True, "exit status 0"), Result(False, "exit status 1")
MAC = bytes.fromhex("020000000001")
OWN = InterfaceAddress(4, bytes((10, 0, 0, 9)), 24, 0, 0, 112)
GLOBAL = InterfaceAddress(4, bytes((10, 0, 0, 1)), 24, 0, 0, 0)
LOCAL = InterfaceAddress(6, bytes.fromhex("fe80" + "00" * 13 + "01"), 64, 253, 0, 0)


def script(**keys: int | str) -> Judged:
    return Judged(ScriptTrack(name="s", script=("/x",), **keys), 5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "effect"),
    [
        ({"demotion": 20}, Effect(20, False)),
        ({}, Effect(240, True)),
        ({"initial": "ok"}, Effect(0, False)),
    ],
)
def test_before_its_first_result_a_track_counts_as_its_initial_says(
    keys: dict[str, int | str], effect: Effect
) -> None:
    assert script(**keys).effect == effect
    assert script(**keys).state == "unknown"


def test_the_first_result_decides_alone_and_others_by_rise_and_fall() -> None:
    track = script(rise=2, fall=3, demotion=7)
    results = "+ - - + - - - - + - + +"
    states = []
    for at, sign in enumerate(results.split()):
        changed = track.take(OK if sign == "+" else FAILED, at)
        states.append("!" * changed + track.state[0])
    assert states == ["!o", "o", "o", "o", "o", "o", "!f", "f", "f", "f", "f", "!o"]
    assert (track.flaps, track.since_ns, track.effect) == (2, 11, Effect(0))
    first_failed = script(rise=9, demotion=7)
    assert first_failed.take(FAILED, 1)
    assert (first_failed.flaps, first_failed.effect) == (0, Effect(7))


@pytest.mark.parametrize(
    ("track", "text"),
    [
        (
            ScriptTrack(name="s", script=("/x",), rise=3, interval_s=0.5),
            "after 3 good results in a row (rise), 1 so far, one every 0.5 s",
        ),
        (
            PingTrack(name="p", target="192.0.2.1", rise=2),
            "after 2 good results in a row (rise), 1",
        ),
        (
            ScriptTrack(name="s", script=("/x",), rise=1),
            "after the next good result, one every 5 s",
        ),
        (InterfaceTrack(name="i", interface="eth0", rise_s=2.5), "once that has lasted for 2.5 s"),
        (
            ProcessTrack(name="p", executable="/x", rise_s=2),
            "once that has lasted for 2 s (rise_s)",
        ),
        (InterfaceTrack(name="i", interface="eth0"), ""),
        (FileTrack(name="f", path="/x"), ""),
    ],
)
def test_what_ends_a_failure_is_named_with_its_numbers(track: Track, text: str) -> None:
    judged = Judged(track, 5)
    assert judged.ends == ""
    judged.take(FAILED, 6)
    if isinstance(track, Probed) and track.rise > 1:
        judged.take(OK, 7)
    assert judged.state == "failed"
    assert judged.ends.startswith(text)
    assert bool(judged.ends) == bool(text)
    for at in (8, 9):
        judged.take(OK, at)
    assert (judged.state, judged.ends) == ("ok", "")


def test_a_text_is_cut() -> None:
    track = script()
    track.take(Result(False, "x" * 1000), 1)
    assert len(track.text) == 200


def test_the_effects_of_several_tracks_add_up(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, number in zip(paths, ("10", "20", "none"), strict=True):
        path.write_text(number)
    tracks: list[Track] = [FileTrack(name=path.name, path=str(path)) for path in paths]
    with Follower(*tracks) as follower:
        assert follower.tracks.effect_of(["a", "b"]) == Effect(30)
        assert follower.tracks.effect_of(["a", "c"]) == Effect(250, True)
        assert follower.tracks.effect_of([]) == Effect()


def test_a_track_that_is_as_before_keeps_its_state(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("3")
    kept, removed = FileTrack(name="a", path=str(path)), FileTrack(name="b", path=str(path))
    with Follower(kept, removed) as follower:
        before = follower.judged("a")
        changed = FileTrack(name="c", path=str(path), demotion=3)
        assert follower.follow(kept, changed) == ["track b: removed", "track c: added"]
        assert follower.judged("a") is before
        assert follower.follow(kept, FileTrack(name="c", path=str(path))) == ["track c: changed"]
        assert [each.track.name for each in follower.tracks] == ["a", "c"]
        path.write_text("4")
        follower.wait(lambda: follower.judged("c").number == 4)
        assert before.number == 4


def test_phases_keep_their_distance() -> None:
    several = sorted(itertools.islice(phases(), 500))
    gaps = [after - before for before, after in itertools.pairwise(several)]
    assert max(gaps) < 3 / 500


def interface(*addresses: InterfaceAddress, up: bool = True, set_up: bool = True) -> Interface:
    return Interface("eth0", 3, MAC, up, addresses, set_up=set_up)


@pytest.mark.parametrize(
    ("now", "link", "carrier", "address"),
    [
        (absent("eth0"), *3 * ("does not exist",)),
        (interface(GLOBAL, up=False, set_up=False), *3 * ("is set down",)),
        (interface(GLOBAL, up=False), "", "has no carrier", "has no carrier"),
        (interface(), "", "", "has no address"),
        (interface(OWN, LOCAL), "", "", "has no address"),
        (interface(GLOBAL), "", "", ""),
    ],
)
def test_what_an_interface_has_to_have(
    now: Interface, link: str, carrier: str, address: str
) -> None:
    for needs, why in (("link", link), ("carrier", carrier), ("address", address)):
        track = InterfaceTrack(name="a", interface="eth0", needs=needs)  # type: ignore[arg-type]
        result = judged(track, now)
        assert result.ok == (not why)
        if why:
            assert result.text == f"eth0 {why}"


def test_an_interface_is_followed_and_a_change_has_to_last() -> None:
    at_once = InterfaceTrack(name="now", interface="eth0")
    later = InterfaceTrack(name="later", interface="eth0", fall_s=0.2, rise_s=60)
    with Follower(at_once, later) as follower:
        assert follower.tracks.interfaces.names == ["eth0"]
        tell = follower.tracks.interfaces.on_interface
        tell(interface())
        assert follower.judged("later").state == "ok"
        tell(interface(up=False))
        assert follower.judged("now").state == "failed"
        assert follower.judged("later").state == "ok"
        tell(interface())
        tell(interface(up=False))
        follower.wait_state("later", "failed")
        tell(interface())
        assert follower.judged("now").state == "ok"
        follower.run(0.05)
        assert follower.judged("later").state == "failed"
        assert follower.judged("later").flaps == 1
        # What is known serves a track that is added.
        follower.follow(at_once, later, InterfaceTrack(name="new", interface="eth0"))
        assert follower.judged("new").state == "ok"


def test_an_interface_that_was_not_followed_in_between_is_unknown() -> None:
    track = InterfaceTrack(name="up", interface="eth0")
    with Follower(track) as follower:
        interfaces = follower.tracks.interfaces
        interfaces.on_interface(interface())
        interfaces.keep(["eth0", "eth1"])
        follower.follow()
        follower.follow(track)
        assert follower.judged("up").state == "ok"
        follower.follow()
        interfaces.keep(["eth1"])
        follower.follow(track)
        assert follower.judged("up").state == "unknown"
