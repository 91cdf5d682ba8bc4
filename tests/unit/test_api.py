"""The public interface: its names, and the examples of docs/api.md, run and typed."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

import carp_fast
from carp_fast.control.documents import StateEvent
from tests.support.scene import Scene, Served, stop_time

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "api.md").read_text()
DEADLINE_S = 60.0
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CONFIGURATION = """
[[virtual_host]]
interface = "eth0"
vhid = 42
addresses = "10.77.0.100/24"
passphrase = "secret"
advskew = 7
"""
EVENT = StateEvent("2026-11-29T12:00:00Z", "eth0", 42, "MASTER", "BACKUP", "master_down", None)


def example(holding: str, tmp_path: Path) -> str:
    """The one example that holds a text, with the paths of this test."""
    text: str
    (text,) = (each for each in EXAMPLES if holding in each)
    configuration = tmp_path / "carp-fast.toml"
    configuration.write_text(CONFIGURATION)
    configuration.chmod(0o600)
    text = text.replace("/etc/carp-fast/carp-fast.toml", str(configuration))
    text = text.replace("/run/carp-fast/control.sock", str(tmp_path / "control.sock"))
    return text.replace(
        "carp.pcap", str(ROOT / "tests/vectors/el1-bsd-master-killed-ucarp-takes-over.pcap")
    )


def output(program: str) -> list[str]:
    """What a program prints; its exit code is 0 and it warns of nothing."""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=DEADLINE_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_every_public_name_is_there_and_on_the_page() -> None:
    names = set(carp_fast.__all__) - {"__version__"}
    assert names <= set(dir(carp_fast))
    for name in names:
        assert getattr(carp_fast, name).__doc__, name
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("|"))
    assert names - set(re.findall(r"`(\w+)", table)) <= {"CarpFastError"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = carp_fast.nothing  # type: ignore[attr-defined]


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    program = "import sys, carp_fast; print(*(n for n in sys.modules if n.startswith('carp_fast')))"
    assert output(program) == ["carp_fast"]


def test_the_examples_are_typed(tmp_path: Path) -> None:
    for number, text in enumerate(EXAMPLES):
        (tmp_path / f"example{number}.py").write_text(text)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    done = subprocess.run(
        [*command, *sorted(tmp_path.glob("*.py"))],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout


def test_the_example_of_a_configuration_prints_its_virtual_hosts(tmp_path: Path) -> None:
    assert output(example("host.settings.advskew", tmp_path)) == [
        "eth0/42 ('10.77.0.100/24',) advskew 7"
    ]


def test_the_example_of_a_dump_counts_verdicts(tmp_path: Path) -> None:
    last = output(example("carp_fast.Dump(", tmp_path))[-1]
    assert last == "{'ok': 30}"


def test_the_example_of_an_engine_becomes_master(tmp_path: Path) -> None:
    lines = output(example("carp_fast.Engine()", tmp_path))
    assert lines[:3] == ["3.0 70 bytes", "0.0 BACKUP started", "3.0 MASTER master_down"]


def test_the_example_of_a_simulation_shows_a_trace_and_breaks_nothing(tmp_path: Path) -> None:
    lines = output(example("carp_fast.Simulation(seed)", tmp_path))
    assert len(lines) > 100
    assert not [line for line in lines if "carp-fast simulate" in line]


@pytest.mark.parametrize("name", ["carp_fast.ControlClient", "carp_fast.AsyncControlClient"])
def test_the_examples_of_a_daemon_print_states_and_events(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_time(monkeypatch)

    async def scenario() -> str:
        served = Served(Scene(), tmp_path / "control.sock")
        await served.server.start()
        command = [sys.executable, "-W", "error", "-c", example(name, tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as program:
            while not served.server.subscribers:
                assert program.poll() is None
                await asyncio.sleep(0.01)
            served.server.publish(EVENT)
            await served.server.stop()
            out, _ = await asyncio.to_thread(program.communicate, timeout=DEADLINE_S)
            assert program.returncode == 0
            return out

    async def bounded() -> str:
        async with asyncio.timeout(DEADLINE_S):
            return await scenario()

    lines = asyncio.run(bounded()).splitlines()
    assert any("42" in line and "MASTER" in line for line in lines[:-1])
    assert "ended the" in lines[-1]
