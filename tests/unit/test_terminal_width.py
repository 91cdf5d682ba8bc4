"""Every command on terminals of 60, 80 and 120 columns: lines fit, and no word is folded."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from carp_fast.bench import measurements
from carp_fast.bench.measurements import Floor, Report, Row, Side, Spread, Stage, TakeOver, Tax
from carp_fast.capture.pcap import Writer
from carp_fast.cli import events
from carp_fast.cli import main as cli
from carp_fast.cli.bench import show
from carp_fast.cli.masters import line_of
from carp_fast.cli.sink import print_received
from carp_fast.cli.terminal import Failure, print_prose, terminal_width
from carp_fast.cli.trial import print_trial
from carp_fast.control.documents import StateEvent, TrackEvent
from carp_fast.daemon.explain_text import text as explanation
from carp_fast.lab.demo import Outcome, Sample
from carp_fast.lab.observer import Key
from carp_fast.loadtest.masters import Held
from carp_fast.loadtest.receiver import Latency
from carp_fast.loadtest.trial import Sent, compare
from carp_fast.simulate.run import Simulation
from tests.support.answering import FakeDaemon, host
from tests.support.asked import Asked
from tests.support.segment import advertisement
from tests.support.transfers import A, B, flow, received

VECTORS = Path(__file__).parent.parent / "vectors"
TAKEOVER = Path(__file__).parent.parent / "scenarios" / "takeover.toml"
WIDTHS = (60, 80, 120)
LONG_ADDRESSES = [f"2001:db8:1234:5678:9abc:def0:1234:{n:x}/64" for n in range(0x1000, 0x1004)]


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class Pipe(io.StringIO):
    encoding = "utf-8"


def run(*words: str | Path) -> None:
    with contextlib.suppress(SystemExit):
        cli.main.main([str(word) for word in words], "carp-fast", standalone_mode=True)


def hosts() -> list[dict[str, object]]:
    return [
        host("eth0", 7, "MASTER"),
        host("vlan100.bond0.0", 255, "BACKUP", reason="less_demoted_master", advskew=100,
             effective_advskew=240, addresses=LONG_ADDRESSES,
             address_problems={LONG_ADDRESSES[0]: "Cannot assign requested address"},
             peer={"source": "fe80::5054:ff:fe12:3456", "advbase": 1, "advskew": 0,
                   "heard_ago_s": 0.4}),
        host("eth1", 8, "INIT", reason="interface_missing", addresses=["192.0.2.20/24"]),
    ]  # fmt: skip


def print_status(directory: Path, *options: str) -> None:
    fake = FakeDaemon(directory / "control.sock")
    try:
        fake.hosts = hosts()
        run("status", "--control-socket", fake.path, *options)
    finally:
        fake.stop()


def print_problems(directory: Path) -> None:
    print_status(directory, "--problems")


def print_reload(directory: Path) -> None:
    fake = FakeDaemon(directory / "control.sock")
    try:
        addresses = " ".join(f"+{address}" for address in LONG_ADDRESSES)
        fake.reload_answer = {
            "changed": [f"vlan100.bond0.0/255: addresses {addresses}", "eth0/7: removed"],
            "added": 0, "removed": 1, "kept": 65_279, "seconds": 0.1234,
        }  # fmt: skip
        run("reload", "--control-socket", fake.path)
    finally:
        fake.stop()


def print_check(directory: Path) -> None:
    path = directory / "carp.toml"
    path.touch(mode=0o600)
    path.write_text(
        '[[virtual_host]]\ninterface = ["nosuch0", "vlan[100-103]"]\nvhid = "1-255"\n'
        'addresses = ["{10.64.0.1+index}/32", "{2001:db8::1+index}/128"]\npassphrase = "x"\n'
    )
    run("check", "-c", path)


def print_faults(directory: Path) -> None:
    path = directory / "carp.toml"
    path.touch(mode=0o600)
    path.write_text('[[virtual_host]]\ninterface = "eth0"\nvhid = 300\ncolour = "red"\n')
    run("check", "-c", path)


def print_explanation(directory: Path) -> None:
    asked = Asked()
    asked.hear("10.77.0.3", advskew=150)
    print_prose(explanation(asked.document()))


def print_event(directory: Path) -> None:
    at = "2026-01-01T00:00:00.000Z"
    event = StateEvent(at, "vlan100.bond0.0", 255, "MASTER", "BACKUP", "master_resigned", None)
    print_prose(events.line_of(msgspec.to_builtins(event)))
    track = TrackEvent(at, "uplink", "failed", "ok", "vlan100 has no carrier", 240, True)
    print_prose(events.line_of(msgspec.to_builtins(track)))


def print_dump(directory: Path) -> None:
    file = directory / "some.pcap"
    with file.open("wb") as written:
        writer = Writer(written)
        for vhid in (1, 255):
            writer.write(10**18, advertisement(source="192.168.100.200", vhid=vhid, demote=3))
    configuration = directory / "carp.toml"
    configuration.touch(mode=0o600)
    configuration.write_text(
        '[[virtual_host]]\ninterface = "eth0"\nvhid = 1\naddresses = "10.0.0.1/24"\n'
        'passphrase = "another"\n'
    )
    run("dump", "-r", file, "-c", configuration)


def print_replay(directory: Path) -> None:
    run("replay", TAKEOVER)


def print_election(directory: Path) -> None:
    secret = directory / "secret"
    secret.write_text("secret\n")
    (recorded,) = VECTORS.glob("el7-*.pcap")
    run("replay", recorded, "--as", "10.77.0.1", "--passphrase-file", secret, "--address",
        "10.77.0.100/24")  # fmt: skip


def print_sink(directory: Path) -> None:
    long = "2001:db8:1234:5678:9abc:def0:1234:5678"
    flows = [flow(long, 255, long, 4_094, 1_234_567), flow(*A, 7)]
    latency, skipped = Latency(9, 1_500, 2_500, 3_500), dict.fromkeys(range(9), 1_000)
    print_received(received(by_source=flows, latency=latency, skipped=skipped))


def print_crossing(directory: Path) -> None:
    sent = Sent(
        frames=1_000_150,
        seconds=2.0,
        by_source={A: 1_000_000, B: 50},
        uncounted={("arp", None): 100},
    )
    print_trial(compare(sent, received(by_source=[flow(*A, 900_000), flow(*B, 55)])))


def print_flood(directory: Path) -> None:
    run("flood", "--write", directory / "x.pcap", "--count", "30", "--vhid", "1-3", "--mix",
        "ok,vrrp")  # fmt: skip


def print_masters(directory: Path) -> None:
    print_prose(line_of(Held(4.2, 65_280, 20, 3, 5_000_000, 6_000_000, 1_000, 0, 0)))


def print_bench(directory: Path) -> None:
    side = Side(4_080, 123.45, 0.25, 0.75, 4_000 << 20, 3_000 << 20, 50_000.0, 4_080.0)
    spread = Spread(3.0, 3.5, 12.0)
    over = TakeOver(4_080, 4_080, 4_080, spread, spread, 1.0, spread, spread)
    row = Row(
        "keepalived", 4_080, 16, 5.0, 3.25, side, side, [over], Floor(1.5, 1.25, 255.0, 255.0)
    )
    show(
        Report(
            carp_fast="0",
            begun_at="2030-01-02T03:04:05+00:00",
            machine=Stage("a processor", 2, "6.1", (0.1, 0.2, 0.3)),
            contenders=[],
            rows=[row],
            pings=[measurements.pings("keepalived", 4_080, 0.01, {"x": 5}, {"x": [1, 2]})],
            notes=["something was skipped, since this machine has only two cores and no more"],
            taxes=[Tax("keepalived", 4_080, 400_000, 1_000.0, 70.0, -60.0, 1_090.0, 2.0)],
        ),
        as_json=False,
        plot=None,
    )


def print_demo(directory: Path) -> None:
    keys = {Key(1, 1), Key(2, 1)}
    outcome = Outcome(
        keys=keys, silences_s=dict.fromkeys(keys, 3.4), held=set(), still_held=set(),
        announced=set(), announcements=6, frames_lost=0,
        samples={"a": Sample(1.25, 30 << 20), "b": Sample(0.5, 20 << 20)},
    )  # fmt: skip
    width = terminal_width(sys.stdout)
    console = Console(file=sys.stdout, width=width or 200)
    for table in outcome.tables(plain=width is None):
        console.print(table)


def print_simulation(directory: Path) -> None:
    Simulation(1, tracing=True).run(print_prose)


def print_failure(directory: Path) -> None:
    Failure("carp-fast: " + " ".join(LONG_ADDRESSES)).show()


PRINTED: dict[str, Callable[[Path], None]] = {
    name.removeprefix("print_"): function
    for name, function in sorted(globals().items())
    if name.startswith("print_") and function.__module__ == __name__
}


@contextlib.contextmanager
def output(monkeypatch: pytest.MonkeyPatch, made: io.StringIO, width: int) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "xterm-256color")
        patch.delenv("NO_COLOR", raising=False)
        patch.setattr(sys, "stdout", made)
        patch.setattr(sys, "stderr", made)
        yield


def shorter_paths(text: str, directory: Path) -> str:
    """The text with a short word for each path, which is one word, however long it is."""
    return text.replace(str(directory), "D").replace(str(VECTORS), "V")


def words(text: str) -> set[str]:
    return set(re.sub(r"[\u2500-\u257f]", " ", text).split())


@pytest.mark.parametrize("name", PRINTED)
def test_every_command_fits_the_terminal_and_folds_no_word(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: io.StringIO = Pipe()
    with output(monkeypatch, made, 80):
        (tmp_path / "pipe").mkdir()
        PRINTED[name](tmp_path / "pipe")
    whole = words(shorter_paths(made.getvalue(), tmp_path / "pipe"))
    for width in WIDTHS:
        made = Terminal()
        with output(monkeypatch, made, width):
            (tmp_path / str(width)).mkdir()
            PRINTED[name](tmp_path / str(width))
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", made.getvalue())
        text = shorter_paths(text, tmp_path / str(width))
        shown, *_ = text.partition(f"not shown on {width} columns:")
        lines = text.splitlines()
        assert max(map(len, lines)) <= width, f"{width}: {max(lines, key=len)}"
        assert len(whole & words(shown)) > 2
        odd = {word for word in words(shown) - whole if not is_shortened(word, whole)}
        assert odd == set(), f"at {width} columns"


def is_shortened(word: str, whole: set[str]) -> bool:
    """Whether a word is the marked beginning of another one, the first items of a list or the
    number of the others, or a time without its date.
    """
    beginning = word.removesuffix("…")
    return (
        re.fullmatch(r"\+\d+", word) is not None
        or (beginning != word and any(other.startswith(beginning) for other in whole))
        or any(other.startswith(f"{word},") or other.endswith(f"T{word}") for other in whole)
    )
