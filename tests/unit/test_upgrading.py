"""The phases of an upgrade: until the commit, whatever fails changes nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from carp_fast import __version__
from carp_fast.daemon import upgrade_messages as messages
from carp_fast.daemon.process import StartError
from carp_fast.daemon.succeeding import Succession
from carp_fast.daemon.upgrade_messages import (
    FAULTS_MAX,
    HEAD,
    HOSTS,
    Assumed,
    Failed,
    Prepare,
    Ready,
    Transfer,
    UpgradeError,
    failed,
)
from carp_fast.daemon.upgrading import Done, Upgrading
from carp_fast.privileged.start import CHANNEL_VARIABLE
from carp_fast.programs.channel import close_all
from carp_fast.programs.memory import sealed
from tests.support.followed import open_descriptors
from tests.support.upgraded import Former, Latter, Task, living

FROZEN = ["check", "running", "freeze", "state"]
Live = Callable[[Succession], Any]
SOON_S = 20.0


async def upgraded(former: Former, latter: Task) -> Done:
    before = open_descriptors()
    try:
        async with asyncio.timeout(SOON_S):
            return await Upgrading(former, latter.start).run()
    finally:
        if latter.task is not None:  # its own end of the channel
            await asyncio.wait([latter.task])
        assert open_descriptors() == before


def refused(former: Former, live: Live) -> tuple[UpgradeError, Task]:
    async def scenario() -> UpgradeError:
        with pytest.raises(UpgradeError) as caught:
            await upgraded(former, latter)
        return caught.value

    latter = Task(live)
    return asyncio.run(scenario()), latter


def test_the_successor_assumes_what_was_passed_on_and_then_gets_the_commit() -> None:
    former, heir = Former(), Latter()
    running: list[bytes] = []
    latter = Task(living(heir, running))
    done = asyncio.run(upgraded(former, latter))
    assert former.did == [*FROZEN, "committed"]
    assert former.successor == (4711, __version__)
    assert running == [b"what runs"]
    assert heir.assumed == {HEAD: b"head", HOSTS: b"hosts"}
    assert (done.pid, done.version) == (4711, __version__)
    assert 0 < done.still_s <= done.seconds
    assert latter.error is None
    assert not latter.killed


# -- the one that is succeeded fails


@pytest.mark.parametrize(
    ("step", "error"),
    [(step, UpgradeError("it cannot")) for step in FROZEN]
    + [(step, OSError(28, "No space left")) for step in FROZEN[1:]],
)
def test_what_the_former_one_cannot_do_ends_the_upgrade_and_it_goes_on(
    step: str, error: Exception
) -> None:
    former = Former({step: error})
    caught, latter = refused(former, living(Latter()))
    expected = FROZEN[: FROZEN.index(step) + 1]
    assert former.did == (expected if step in ("check", "running") else [*expected, "resume"])
    assert str(error.args[-1]) in str(caught)
    assert latter.killed or step == "check"


def test_a_successor_that_cannot_be_started_changes_nothing() -> None:
    async def start(descriptor: int) -> Task:
        raise UpgradeError("cannot start it")

    former = Former()
    with pytest.raises(UpgradeError, match="cannot start it"):
        asyncio.run(Upgrading(former, start).run())
    assert former.did == ["check"]


# -- the successor fails


async def dies(succession: Succession) -> None:
    """Ends before it has looked at anything."""


async def dies_when_it_knows_what_runs(succession: Succession) -> None:
    succession.running().close()


async def dies_when_it_is_ready(succession: Succession) -> None:
    succession.running().close()
    await succession._channel.send(Ready("2"), within_s=SOON_S)


async def dies_with_the_state(succession: Succession) -> None:
    await dies_when_it_is_ready(succession)
    received = await succession._channel.receive(Transfer, within_s=SOON_S)
    close_all(received.descriptors)


async def is_faulty(succession: Succession) -> None:
    succession.running().close()
    raise succession.failed(UpgradeError("3 faults", ("a: 1", "b: 2", "c: 3")))


async def sends_nonsense(succession: Succession) -> None:
    succession.running().close()
    succession._channel._end.send(b"nonsense")
    await asyncio.sleep(SOON_S)


async def sends_another_answer(succession: Succession) -> None:
    succession.running().close()
    await succession._channel.send(Assumed(), within_s=SOON_S)
    await asyncio.sleep(SOON_S)


@pytest.mark.parametrize(
    ("live", "why", "did"),
    [
        (dies, "prepare: the successor has ended: exit status 1", 2),
        (dies_when_it_knows_what_runs, "prepare: the successor has ended: exit status 1", 2),
        (dies_when_it_is_ready, "transfer: the successor has ended: exit status 1", 4),
        (dies_with_the_state, "transfer: the successor has ended: exit status 1", 4),
        (is_faulty, "prepare: 3 faults, the first: a: 1", 2),
        (sends_nonsense, "prepare: a message that this version does not know", 2),
        (sends_another_answer, "prepare: Assumed in place of Ready or Failed", 2),
        (living(Latter(UpgradeError("no room"))), "transfer: no room", 4),
        (living(Latter(ValueError("odd"))), "transfer: ValueError: odd .see the log", 4),
    ],
)
def test_a_successor_that_fails_is_ended_and_the_former_one_goes_on(
    live: Live, why: str, did: int
) -> None:
    former = Former()
    error, latter = refused(former, live)
    assert former.did == FROZEN[:did] + ["resume"] * (did > 2)
    assert latter.killed
    with pytest.raises(UpgradeError, match=why):
        raise error
    assert error.faults == (("a: 1", "b: 2", "c: 3") if live is is_faulty else ())


async def hangs(succession: Succession) -> None:
    await asyncio.sleep(2 * SOON_S)


async def hangs_when_it_is_ready(succession: Succession) -> None:
    await dies_when_it_is_ready(succession)
    await asyncio.sleep(2 * SOON_S)


@pytest.mark.parametrize(
    ("live", "limit", "phase", "did"),
    [(hangs, "PREPARE_S", "prepare", 2), (hangs_when_it_is_ready, "TRANSFER_S", "transfer", 4)],
)
def test_a_successor_that_hangs_is_ended_at_the_deadline_of_the_phase(
    monkeypatch: pytest.MonkeyPatch, live: Live, limit: str, phase: str, did: int
) -> None:
    monkeypatch.setattr(messages, limit, 0.3)
    former = Former()
    error, latter = refused(former, live)
    assert str(error) == f"{phase}: the successor has not answered within 0.3 s"
    assert former.did == FROZEN[:did] + ["resume"] * (did > 2)
    assert latter.killed


def test_an_upgrade_that_is_cancelled_while_nothing_moves_goes_on_first() -> None:
    async def scenario() -> None:
        latter = Task(hangs_when_it_is_ready)
        upgrading = asyncio.create_task(Upgrading(former, latter.start).run())
        async with asyncio.timeout(SOON_S):
            while "state" not in former.did:
                await asyncio.sleep(0.001)
        upgrading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upgrading
        assert latter.killed

    former = Former()
    asyncio.run(scenario())
    assert former.did == [*FROZEN, "resume"]


# -- what the successor gets


def test_a_successor_without_a_commit_never_begins() -> None:
    former = Former({"state": UpgradeError("it cannot")})
    heir = Latter()
    _, latter = refused(former, living(heir))
    assert heir.assumed == {}

    async def scenario() -> None:
        """The former one dies between the transfer and the commit."""

        async def start(descriptor: int) -> Task:
            await latter.start(descriptor)
            return latter

        class Dying(Former):
            def on_committed(self, successor: int, version: str) -> None:
                raise AssertionError

        upgrading = asyncio.create_task(Upgrading(Dying(), start).run())
        async with asyncio.timeout(SOON_S):
            while not heir.assumed:
                await asyncio.sleep(0)
        upgrading.cancel()
        await asyncio.wait([upgrading])
        assert latter.task is not None
        await asyncio.wait([latter.task])

    async def live(succession: Succession) -> None:
        succession.running().close()
        await succession._channel.send(Ready("2"), within_s=SOON_S)
        received = await succession._channel.receive(Transfer, within_s=SOON_S)
        await heir.assume(dict(zip(received.message.names, received.descriptors, strict=True)))
        try:
            await succession._channel.receive(Transfer, within_s=SOON_S)
        finally:
            began.append("not")

    began: list[str] = []
    latter = Task(live)
    asyncio.run(scenario())
    assert began == ["not"]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ((HEAD,), "incomplete"),
        ((HEAD, HEAD), "incomplete"),
        ((HEAD, HOSTS, "moon"), "unknown: moon"),
    ],
)
def test_a_state_that_is_not_whole_is_refused(names: tuple[str, ...], why: str) -> None:
    class Half(Former):
        def state(self) -> list[tuple[str, int]]:
            return [(name, sealed(name, [])) for name in names]

    error, _ = refused(Half(), living(Latter()))
    assert str(error) == f"transfer: the state that was passed on is {why}"


def test_another_protocol_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from carp_fast.daemon import succeeding

    monkeypatch.setattr(succeeding, "PROTOCOL", 7)
    error, latter = refused(Former(), living(Latter()))
    assert "cannot succeed carp-fast" in str(error)
    assert "protocol 1; it knows protocol 7; restart the daemon instead" in str(error)
    assert isinstance(latter.error, StartError)


def test_only_a_process_with_the_variable_is_a_successor() -> None:
    assert Succession.from_environment({}) is None
    for text in ("x", "-1", ""):
        with pytest.raises(StartError, match=f"{CHANNEL_VARIABLE} = '{text}': not the number"):
            Succession.from_environment({CHANNEL_VARIABLE: text})
    with pytest.raises(StartError, match=f"{CHANNEL_VARIABLE}: descriptor 9999: Bad file"):
        Succession.from_environment({CHANNEL_VARIABLE: "9999"})


def test_a_successor_leaves_the_variable_to_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHANNEL_VARIABLE, "x")
    with pytest.raises(StartError):
        Succession.from_environment()
    assert CHANNEL_VARIABLE not in os.environ


def test_faults_fit_into_a_message() -> None:
    assert failed(["a"]) == Failed(["a"])
    assert failed([]) == Failed(["it failed"])
    many = failed([f"{number}: {'x' * 9999}" for number in range(FAULTS_MAX + 7)])
    assert len(many.faults) == FAULTS_MAX + 1
    assert many.faults[-1] == "... and 7 more"
    assert sum(map(len, many.faults)) < 60_000


def test_messages_name_what_they_carry() -> None:
    assert Prepare(1, "0", 1).carried == ("running",)
    assert Transfer((HEAD, HOSTS)).carried == (HEAD, HOSTS)
    assert Assumed().carried == ()
