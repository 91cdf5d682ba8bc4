"""Mutants of the engine: faults put into a copy of it, and which tests catch each.

    .venv/bin/python tests/simulation/mutants.py [--seeds N] [NAME ...]

The sources, the package and the tests are copied to a temporary directory and built there; each
mutant changes a line or two, rebuilds and runs the unit tests of the engine, the scenarios, the
tests of the simulation and seeds, each until its first failure. A mutant that nobody catches is a
missing test: exit code 1.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
UNIT = ROOT / "tests" / "unit"
COPIED = ("src", "carp_fast", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
DEADLINE_S = 900.0
SEEDS = 400
# Of the unit tests those that look at what the engine does, not at sources or at the daemon.
CONCERNED = (
    "test_auth.py",
    "test_crossing.py",
    "test_elections.py",
    "test_lanes.py",
    "test_engine*.py",
    "test_vectors.py",
    "test_vhid.py",
    "test_wire*.py",
)
# The worlds of the smoke run as seeds beside it, which tell more.
WORLDS = "small_worlds or large_worlds"


@dataclass(frozen=True)
class Mutant:
    """A change of sources: (file, text that stands there once, what takes its place)."""

    name: str
    changes: tuple[tuple[str, str, str], ...]


MUTANTS = (
    Mutant(
        "tie reversed",
        (
            (
                "_vhid.pyx",
                "last_octet_first(host.source4) > last_octet_first(heard.source)",
                "last_octet_first(host.source4) < last_octet_first(heard.source)",
            ),
        ),
    ),
    Mutant(
        "tie over IPv6 reversed",
        (
            (
                "_vhid.pyx",
                "memcmp(host.source6, heard.source, 16) > 0",
                "memcmp(host.source6, heard.source, 16) < 0",
            ),
        ),
    ),
    Mutant(
        "tie over IPv6 decided at once where IPv4 decides",
        (("_vhid.pyx", "if host.flags & EXPECTS_4 and now_ns - ", "if False and now_ns - "),),
    ),
    Mutant(
        "tie without jitter",
        (
            (
                "_vhid.pyx",
                "    host.jitter_us = <uint32_t>(wait_ns // 1000)",
                "    host.jitter_us = 0",
            ),
        ),
    ),
    Mutant(
        "tie: jitter does not double",
        (
            (
                "_vhid.pyx",
                "(range_ns // JITTER_PARTS) << (host.ties - 1)",
                "range_ns // JITTER_PARTS",
            ),
        ),
    ),
    Mutant(
        "tie: jitter of an interval at once",
        (("_vhid.pyx", "    if host.ties <= TIES_BELOW_INTERVAL:", "    if False:"),),
    ),
    Mutant(
        "tie: jitter undone by the next advertisement",
        (
            (
                "_core.pyx",
                "elif host.ties and now_ns - host.settled_ns > 2 * down_ns:",
                "else:",
            ),
        ),
    ),
    Mutant(
        "tie: jitter never undone",
        (
            (
                "_core.pyx",
                "elif host.ties and now_ns - host.settled_ns > 2 * down_ns:",
                "elif False:",
            ),
        ),
    ),
    Mutant(
        "tie: jitter undone by whoever is heard for two master-down times",
        (("_vhid.pyx", "        host.settled_ns = now_ns\n", "        pass\n"),),
    ),
    Mutant(
        "tie: who was MASTER alone goes on with the former range",
        (("_core.pyx", "if previous == MASTER and now_ns - host.since_ns >", "if False and 0 >"),),
    ),
    Mutant(
        "tie: precedence not heeded",
        (
            (
                "_vhid.pyx",
                "if host.flags & PRECEDED or not precedes(host, heard):",
                "if True:",
            ),
        ),
    ),
    Mutant(
        "tie: the lowest source never waits behind a BSD",
        (
            (
                "_vhid.pyx",
                "if host.flags & PRECEDED or not host.ties & 1:",
                "if host.flags & PRECEDED:",
            ),
        ),
    ),
    Mutant(
        "tie lost in dialect ucarp without jitter",
        (
            (
                "_vhid.pyx",
                '("MASTER", "tie_lost",          "BACKUP", "arm_jittered remove_addresses", ',
                '("MASTER", "tie_lost",          "BACKUP", "arm_master_down remove_addresses", ',
            ),
        ),
    ),
    Mutant(
        "tie: jitter on the first rise after a resignation",
        (
            (
                "_core.pyx",
                "now_ns + <int64_t>vhid_advskew(host) * SECOND_NS // 256)",
                "now_ns + vhid_interval_ns(host) // 4\n"
                "                            + <int64_t>vhid_advskew(host) * SECOND_NS // 256)",
            ),
        ),
    ),
    Mutant(
        "tie of a BSD: take-overs from one demoted master not parted",
        (
            (
                "_vhid.pyx",
                "return ON_CONTESTED if host.ties else ON_MASTER_DEMOTED",
                "return ON_MASTER_DEMOTED",
            ),
        ),
    ),
    Mutant(
        "the first advertisement of a master is not repeated",
        (("_core.pyx", "if effects & ADVERTISE_AGAIN:", "if False:"),),
    ),
    Mutant(
        "an answer is not repeated",
        (
            (
                "_core.pyx",
                "        engine_ask(core, &core.advertise, slot, TO_ADVERTISE)\n"
                "        advertise_again(core, slot, now_ns)\n",
                "        engine_ask(core, &core.advertise, slot, TO_ADVERTISE)\n",
            ),
        ),
    ),
    Mutant(
        "expire before receive: the engine expires what is not proven",
        (("_core.pyx", "if host.deadline_ns > heard_until_ns:", "if False:"),),
    ),
    Mutant(
        "expire before receive: the order of a simulated turn",
        (
            (
                "_simulator_turn.pyx",
                "        receive_slice(world, machine)\n    elif",
                "        engine_expire(&machine.core, machine.turn_ns, machine.turn_ns)\n"
                "        take_reports(world, machine)\n"
                "        receive_slice(world, machine)\n    elif",
            ),
        ),
    ),
    Mutant(
        "digest not checked",
        (
            (
                "_receive.pyx",
                "if not fits and not fits_alternate(&core.hosts[hearing.slot], heard, arrived_ns):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "digest of the other frame of two",
        (
            (
                "_receive.pyx",
                "conclude(core, &hearings[1], fit[1])",
                "conclude(core, &hearings[1], fit[0])",
            ),
        ),
    ),
    Mutant(
        "checksum of CARP not checked",
        (("_wire.pyx", "if wire_checksum(carp, CARP_LENGTH):", "if False:"),),
    ),
    Mutant(
        "checksum of IPv4 not checked",
        (
            (
                "_wire.pyx",
                "if a.family == 4 and wire_checksum(a.ip, (a.ip[0] & 15) * 4):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "TTL not checked",
        (
            (
                "_wire.pyx",
                "return BAD_TTL if hop_limit != 255 and not a.unicast else VERDICT_OK",
                "return VERDICT_OK",
            ),
        ),
    ),
    Mutant(
        "replay not checked",
        (
            (
                "_receive.pyx",
                "    if is_replay(core, slot, source, heard, own, arrived_ns):",
                "    if False:",
            ),
        ),
    ),
    Mutant(
        "a silent source learned anew only after our master-down",
        (
            (
                "_receive.pyx",
                "strict or arrived_ns - source.heard_ns < vhid_silence_ns(host, source)",
                "strict or arrived_ns - source.heard_ns < vhid_master_down_ns(host)",
            ),
        ),
    ),
    Mutant(
        "a silent source learned anew too late for a longer interval",
        (
            (
                "_vhid.pyx",
                "min(2 * interval_ns, vhid_master_down_ns(host) - interval_ns)",
                "2 * interval_ns",
            ),
        ),
    ),
    Mutant(
        "what a source sent in order is news after a short silence",
        (
            (
                "_receive.pyx",
                "    elif known and back and (strict or source.ascended == ASCENDED):",
                "    elif False:",
            ),
        ),
    ),
    Mutant(
        "a constant counter shows an order",
        (("_receive.pyx", "    if step == 0:\n", "    if False:\n"),),
    ),
    Mutant(
        "loop by counter alone",
        (
            (
                "_receive.pyx",
                "cdef bint lately = own and sent_lately(",
                "cdef bint lately = sent_lately(",
            ),
        ),
    ),
    Mutant(
        "loop without our MAC",
        (("_receive.pyx", "if lately and has_our_mac(host, heard):", "if lately:"),),
    ),
    Mutant(
        "loop for longer than an interval",
        (
            (
                "_receive.pyx",
                "ago_ms >= 0 and (ago_ms - 1) * 1000000 <= vhid_interval_ns(host)",
                "ago_ms >= 0",
            ),
        ),
    ),
    Mutant(
        "our own frames, late, are another host's",
        (("_receive.pyx", "if own and is_ours_late(host, heard, arrived_ns):", "if False:"),),
    ),
    Mutant(
        "what we sent long ago is taken from our own source",
        (
            (
                "_receive.pyx",
                "    if age_ms * 1000000 > 2 * vhid_master_down_ns(host):\n        return True",
                "    if age_ms * 1000000 > 2 * vhid_master_down_ns(host) and not own:\n"
                "        return True",
            ),
        ),
    ),
    Mutant(
        "hosts with one source both stay",
        (("_vhid.pyx", "    if order < 0:\n", "    if False:\n"),),
    ),
    Mutant(
        "a tie with a ucarp that has our source goes on for ever",
        (("_vhid.pyx", "if now_ns - host.tie_since_ns > 2 * interval_ns else", "if False else"),),
    ),
    Mutant(
        "hosts with one source and one MAC both stay",
        (
            (
                "_vhid.pyx",
                "vhid_any_mac(heard.source_mac):\n        return ON_TIE_YIELDED",
                "vhid_any_mac(heard.source_mac):\n        return ON_SLOWER",
            ),
        ),
    ),
    Mutant(
        "hosts with one source in step for ever",
        (("_receive.pyx", "+ <uint64_t>arrived_ns) % LEAP", "+ <uint64_t>arrived_ns) % 1"),),
    ),
    Mutant(
        "duplicate_source never ends",
        (("_vhid.pxd", "DUPLICATE_ENDS = 2 ", "DUPLICATE_ENDS = 2000000 "),),
    ),
    Mutant(
        "ranges of counters lost when they are old",
        (("_history.pyx", "            retire(history, &lately[i])\n", "            pass\n"),),
    ),
    Mutant(
        "ranges of counters retired too early",
        (("_history.pyx", "at_ms) > 2 * <int64_t>span_ms:", "at_ms) > <int64_t>span_ms // 2:"),),
    ),
    Mutant(
        "counters that were passed over are known",
        (("_history.pxd", "HISTORY_NEAR = 64 ", "HISTORY_NEAR = 65536 "),),
    ),
    Mutant(
        "known counters are taken from strangers for ever",
        (
            (
                "_receive.pyx",
                "2 * vhid_master_down_ns(host):\n        return True\n    if known",
                "2 * vhid_master_down_ns(host) and not stranger:\n"
                "        return True\n    if known",
            ),
        ),
    ),
    Mutant(
        "known counters are refused from a host that is not heard",
        (
            (
                "_receive.pyx",
                "    if age_ms * 1000000 > 2 * vhid_master_down_ns(host):\n        return True",
                "    if age_ms >= 0:\n        return True",
            ),
        ),
    ),
    Mutant(
        "known counters are refused from known hosts",
        (
            (
                "_receive.pyx",
                "    if not off and (own or stranger or back or strict):",
                "    if not off:",
            ),
        ),
    ),
    Mutant(
        "a known counter is taken from a stranger again and again",
        (("_receive.pyx", "if back or is_used_up(host, heard, arrived_ns):", "if False:"),),
    ),
    Mutant(
        "whoever is taken is genuine",
        (("_receive.pyx", "    source.genuine |= new\n", "    source.genuine |= True\n"),),
    ),
    Mutant(
        "an OpenBSD that moved is refused",
        (("_receive.pyx", "if other.constant and arrived_ns", "if False and arrived_ns"),),
    ),
    Mutant(
        "a host that was apart for long is not answered",
        (
            (
                "_receive.pyx",
                "            answer_stranger(core, slot, arrived_ns)\n",
                "            pass\n",
            ),
        ),
    ),
    Mutant(
        "one family's silence ignored: not said",
        (("_receive.pyx", "if (now_ns - since_ns > vhid_master_down_ns(host)\n", "if (False\n"),),
    ),
    Mutant(
        "one family's silence: absences do not count",
        (
            (
                "_receive.pyx",
                "now_ns - absence_end(&core.absences, vhid",
                "now_ns - 0 * absence_end(&core.absences, vhid",
            ),
        ),
    ),
    Mutant(
        "one family's silence is enough to take over",
        (
            (
                "_receive.pyx",
                "    if event != EVENTS:\n        engine_event",
                "    if event != EVENTS and not (host.state == BACKUP and heard.family == 6\n"
                "                                and host.flags & EXPECTS_4):\n"
                "        engine_event",
            ),
        ),
    ),
    Mutant(
        "address kept at BACKUP",
        (
            (
                "_vhid.pyx",
                '"last_advertisement arm_master_down remove_addresses"',
                '"last_advertisement arm_master_down"',
            ),
        ),
    ),
    Mutant(
        "renamed: taken for gone only when it is told to be",
        (("_core.pyx", "interface.ifindex == 0 or interface.renamed:", "interface.ifindex == 0:"),),
    ),
    Mutant(
        "renamed: addresses kept",
        (
            (
                "_vhid.pyx",
                '"disarm remove_addresses resign",           ""),',
                '"disarm resign",           ""),',
            ),
        ),
    ),
    Mutant(
        "no announcement",
        (
            (
                "_actions.pyx",
                "    plan_announcement(host, now_ns)\n"
                "    engine_ask(core, &core.announce, slot, TO_ANNOUNCE)",
                "    plan_announcement(host, now_ns)",
            ),
        ),
    ),
    Mutant(
        "hosts with a short interval advertise behind all others",
        (("_core.pyx", "        if vhid_interval_ns(host) < SECOND_NS:", "        if False:"),),
    ),
    Mutant(
        "absence means nothing",
        (("_core.pyx", "elif waits_on(core, slot, now_ns):", "elif False:"),),
    ),
    Mutant(
        "absence: whatever its length counts, as by the shortest interval of all",
        (
            (
                "_absence.pyx",
                "return absence.dropped or length_ns(absence) > interval_ns",
                "return True",
            ),
        ),
    ),
    Mutant(
        "absence: drops do not count",
        (
            (
                "_absence.pyx",
                "return absence.dropped or length_ns(absence) > interval_ns",
                "return not absence.dropped and length_ns(absence) > interval_ns",
            ),
        ),
    ),
    Mutant(
        "absence: what was missed is not added",
        (("_absence.pyx", "max(host.deadline_ns + missed_ns,", "max(host.deadline_ns,"),),
    ),
    Mutant(
        "absence: no two intervals of the master after it",
        (("_absence.pyx", "min(least_ns, down_ns) + vhid", "0 * min(least_ns, down_ns) + vhid"),),
    ),
    Mutant(
        "absence of a master-down: two intervals are enough",
        (("_absence.pyx", "if missed_ns + asleep_ns < down_ns and master", "if master"),),
    ),
    Mutant(
        "absence: sleep forgotten",
        (("_absence.pyx", "absence.since_ns + absence.asleep_ns", "absence.since_ns"),),
    ),
    Mutant(
        "absence counted again for ever",
        (("_core.pyx", "    host.flags |= EXTENDED\n", "    pass\n"),),
    ),
    Mutant(
        "absence counted no more once a frame from before its end is read",
        (
            (
                "_core.pyx",
                "(MASTER_LEAVES | CONTESTED | REPEATING | EXTENDED)\n    engine_set",
                "(MASTER_LEAVES | CONTESTED | REPEATING)\n    engine_set",
            ),
        ),
    ),
    Mutant(
        "absence in a checkpoint forgotten",
        (("_orders.pyx", "    for i in range(was.absence_count):", "    for i in range(0):"),),
    ),
    Mutant(
        "lanes: every drop counts",
        (
            (
                "_lanes.pyx",
                "    if covers(lanes, now_ns):\n        return False",
                "    if False:\n        return False",
            ),
        ),
    ),
    Mutant(
        "lanes: a drop of known sources does not count",
        (("_lanes.pyx", "return lane == LANE_GENUINE", "return False"),),
    ),
    Mutant(
        "lanes: no drop of strangers ever counts",
        (
            (
                "_lanes.pyx",
                "    if covers(lanes, now_ns):\n        return False",
                "    return False",
            ),
        ),
    ),
    Mutant(
        "lanes: where nobody is known drops count for ever",
        (
            (
                "_lanes.pyx",
                "return now_ns - lanes.dropping_since_ns < UNPROVEN_NS",
                "return True",
            ),
        ),
    ),
    Mutant(
        "lanes: a source that was just found counts as sorted",
        (("_lanes.pyx", "lanes.unsorted_until_ns = now_ns + TELL_AGAIN_NS", "pass"),),
    ),
    Mutant(
        "lanes: strangers' backlog is not waited for",
        (("_lanes.pyx", "max(common_ns, genuine_ns - COMMON_LAG_NS)", "genuine_ns"),),
    ),
    Mutant(
        "lanes: strangers' backlog is waited for without end",
        (("_lanes.pyx", "max(common_ns, genuine_ns - COMMON_LAG_NS)", "common_ns"),),
    ),
    Mutant(
        "resignation sent as BACKUP",
        (
            (
                "_vhid.pyx",
                '("BACKUP", "resign",            "INIT",   "disarm", ',
                '("BACKUP", "resign",            "INIT",   "disarm remove_addresses resign", ',
            ),
        ),
    ),
    Mutant(
        "demotion lost: OpenBSD's byte 4 stays 0",
        (
            (
                "_vhid.pyx",
                "    if host.dialect != DIALECT_OPENBSD:\n        return 0",
                "    if True:\n        return 0",
            ),
        ),
    ),
    Mutant(
        "a refused change is never tried again",
        (("_upkeep.pyx", "host.retry_at_ns = now_ns + (RETRY_NS << host.retries)", "pass"),),
    ),
    Mutant(
        "what fails is tried again without waiting longer",
        (("_upkeep.pyx", "host.retries = min(host.retries + 1, RETRIES_MAX)", "pass"),),
    ),
    Mutant(
        "a removed host leaves before its addresses are gone",
        (
            (
                "_actions.pyx",
                "return host.flags & LEAVING and not host.held and not",
                "return host.flags & LEAVING and not",
            ),
        ),
    ),
    Mutant(
        "a lost address is not added again",
        (("_upkeep.pyx", "there == THERE_NONE and address.flags & (HELD | FOREIGN)", "False"),),
    ),
    Mutant(
        "an address of ours on a BACKUP stays",
        (
            (
                "_upkeep.pyx",
                "host.state == MASTER or host.state == BACKUP) and (",
                "host.state == MASTER) and (",
            ),
        ),
    ),
    Mutant(
        "an address that another hand put in the place of ours is still ours",
        (("_upkeep.pyx", "there == THERE_FOREIGN and address.flags & HELD", "False"),),
    ),
    Mutant(
        "the address of another virtual host is taken for ours",
        (("_upkeep.pyx", "not held_elsewhere(core, slot, which)):", "True):"),),
    ),
    Mutant(
        "an address that is there and foreign is taken for ours",
        (
            (
                "_actions.pyx",
                "    elif error:\n        if not address.flags & FOREIGN:",
                "    elif False:\n        if not address.flags & FOREIGN:",
            ),
        ),
    ),
    Mutant(
        "a removal of ours has nobody look what went with it",
        (("_actions.pyx", "verify_soon(core, host.interface, now_ns + REMOVED_NS)", "pass"),),
    ),
    Mutant(
        "nobody looks again before a minute has passed",
        (("_orders.pyx", "verify_soon(core, core.hosts[slot].interface, now_ns)", "pass"),),
    ),
    Mutant(
        "a MASTER without addresses stays",
        (("_upkeep.pyx", "upkeep_lose(core, slot, ADDRESS_DEADLINE, now_ns)", "pass"),),
    ),
    Mutant(
        "a foreign address does not count as there",
        (
            (
                "_upkeep.pyx",
                "there |= address.flags & (HELD | FOREIGN) != 0",
                "there |= address.flags & HELD != 0",
            ),
        ),
    ),
    Mutant(
        "who gave up for its addresses is not demoted",
        (("_upkeep.pyx", "    host.flags |= ADDRESS_DEMOTED\n", ""),),
    ),
    Mutant(
        "the demotion for addresses ends at once",
        (("_upkeep.pyx", "now_ns + (DEMOTED_NS << host.losses)", "now_ns + 1000000"),),
    ),
)
SUITES = {
    "unit": [str(path.relative_to(ROOT)) for glob in CONCERNED for path in UNIT.glob(glob)],
    "scenarios": ["tests/scenarios"],
    "simulation": ["tests/simulation", "-k", f"not ({WORLDS})"],
}


def copy(to: Path) -> None:
    """Copy what builds and tests the engine, without what was built."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", ".hypothesis", "integration", "interop")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=ignored)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, to / name)


def run(arguments: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy, away from the package of the original."""
    environment = os.environ | {"PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def build(where: Path) -> None:
    """Compile what has changed. Raises RuntimeError with the compiler's last words."""
    done = run(["setup.py", "--quiet", "build_ext", "--inplace"], where)
    if done.returncode:
        raise RuntimeError(f"the copy does not build: {done.stderr[-2000:]}")


def failure(output: str) -> str:
    """The first test that failed, from pytest's summary."""
    for line in output.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split(" - ")[0].split(" ", 1)[1]
    return "did not end well: " + " ".join(output.split()[-12:])


def broken_by(where: Path, seeds: int) -> str | None:
    """The invariant that the first bad seed broke, or None."""
    code = (
        "import sys\n"
        "from carp_fast import simulate\n"
        f"for outcome in simulate.run_all(range({seeds})):\n"
        "    if outcome.broken:\n"
        "        sys.exit(f'seed {outcome.seed}: {outcome.broken}')\n"
    )
    done = run(["-c", code], where)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def catch(where: Path, seeds: int) -> dict[str, str | None]:
    """What each suite says of the engine as it is in the copy: a failed test, or None."""
    caught: dict[str, str | None] = {}
    for suite, paths in SUITES.items():
        done = run(["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *paths], where)
        caught[suite] = None if done.returncode == 0 else failure(done.stdout + done.stderr)
    caught["seeds"] = broken_by(where, seeds)
    return caught


def mutate(where: Path, mutant: Mutant) -> dict[Path, str]:
    """Change the copy; returns what the files held. Raises ValueError where it does not fit."""
    held: dict[Path, str] = {}
    for name, old, new in mutant.changes:
        path = where / "src" / "carp_fast" / name
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{mutant.name}: {name} has {text.count(old)} times {old!r}")
        held.setdefault(path, text)
        path.write_text(text.replace(old, new))
    return held


def report(name: str, caught: dict[str, str | None], seconds: float) -> bool:
    """Print what caught a mutant; whether anything did."""
    print(f"{name} ({seconds:.0f} s)")
    for suite, what in caught.items():
        print(f"    {suite:<11s} {what or '-'}", flush=True)
    return any(caught.values())


def main() -> int:
    """Run the mutants named, or all of them, after the engine as it is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants whose name begins so")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="small worlds for each mutant")
    chosen = parser.parse_args()
    mutants = [m for m in MUTANTS if not chosen.names or m.name.startswith(tuple(chosen.names))]
    survived = []
    with tempfile.TemporaryDirectory(prefix="carp-fast-mutants-") as directory:
        where = Path(directory)
        copy(where)
        build(where)
        if report("the engine as it is", catch(where, chosen.seeds), 0.0):
            print("tests fail without a mutant: nothing can be said", file=sys.stderr)
            return 1
        for mutant in mutants:
            began_s = time.monotonic()
            held = mutate(where, mutant)
            build(where)
            if not report(mutant.name, catch(where, chosen.seeds), time.monotonic() - began_s):
                survived.append(mutant.name)
            for path, text in held.items():
                path.write_text(text)
    print(f"{len(mutants)} mutants, {len(survived)} survived: {', '.join(survived) or 'none'}")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
