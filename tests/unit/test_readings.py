"""A configuration that is cut off, changes while it is read, or would remove what it should not."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from carp_fast.config import readings
from carp_fast.config.load import Configuration, ConfigurationError, load, load_settled
from carp_fast.daemon.reload import compare, refusals
from carp_fast.daemon.table import BACKUP, MASTER, Hosts
from carp_fast.engine._auth import Passphrase
from tests.support.configurations import HOST, write

LOGGER = "carp_fast.config.readings"

# As in use: comments, an include, tables of several hosts, keys behind the addresses.
REAL = """\
# The routers of the first floor.
include = ["conf.d/*.toml"]

[daemon]
control_socket = "/run/carp-fast/floor1.sock"

[defaults]
passphrase_file = "secret"
preempt = true
advskew = 100

[[virtual_host]]
interface = "vlan[10-13]"
vhid = "1-20"
addresses = ["10.{number}.0.{vhid}/32"]

[[virtual_host]]
interface = ["eth0", "eth1"]
vhid = [50, 60]
addresses = ["192.0.2.{vhid}/24", "2001:db8::{vhid}/64"]
preempt_delay_s = 60
"""


def running(configuration: Configuration, state: int = MASTER) -> Hosts:
    hosts = Hosts()
    for host in configuration.virtual_hosts:
        hosts.states[hosts.take(host)] = state
    return hosts


def refused(old: Configuration, new: Configuration, state: int = MASTER) -> list[str]:
    hosts = running(old, state)
    return refusals(old, new, compare(hosts, new), hosts)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    write(tmp_path, "swordfish\n", "secret")
    write(tmp_path, HOST, "conf.d/one.toml")
    write(tmp_path, HOST.replace("eth0", "eth5"), "conf.d/two.toml")
    return write(tmp_path, REAL)


def truncations(path: Path, whole: Configuration, changed: Path) -> dict[int, Configuration]:
    """What is accepted of a file, by the length at which it was cut off."""
    content, accepted = changed.read_bytes(), {}
    for length in range(len(content)):
        changed.write_bytes(content[:length])
        try:
            new = load(path)
        except ConfigurationError:
            continue
        if not refused(whole, new):
            accepted[length] = new
    changed.write_bytes(content)
    return accepted


def test_no_truncation_of_a_configuration_removes_most_masters(real: Path) -> None:
    whole = load(real)
    masters = len(whole.virtual_hosts)
    accepted = truncations(real, whole, real)
    # Cut between two lines a file looks whole: of those only what loses less passes.
    assert all(REAL[:length].endswith("\n") for length in accepted)
    kept = {length: len(new.virtual_hosts) for length, new in accepted.items()}
    assert all(2 * count >= masters for count in kept.values()), kept
    assert [REAL[length:] for length in accepted] == [
        REAL[REAL.rindex("\n\n") + 1 :],
        REAL[REAL.rindex("[[") :],
        "preempt_delay_s = 60\n",
    ]
    print(f"{len(REAL)} truncations, {len(kept)} accepted: (bytes, virtual hosts) {kept}")


def test_no_truncation_of_an_included_file_or_a_passphrase_passes_within_a_line(
    real: Path,
) -> None:
    whole = load(real)
    for name in ("conf.d/one.toml", "secret"):
        content = (real.parent / name).read_text()
        accepted = truncations(real, whole, real.parent / name)
        assert all(content[:length].endswith("\n") for length in accepted), (name, accepted)
        assert 0 not in accepted


def test_more_than_half_of_the_masters_are_not_removed(real: Path) -> None:
    whole = load(real)
    write(real.parent, REAL.replace('"1-20"', '"1-8"'))
    (line,) = refused(whole, load(real))
    assert line == (
        "48 of 86 virtual hosts that are MASTER would be removed, more than half (vlan10/9,"
        " vlan10/10, vlan10/11 and 45 more)"
    )
    write(real.parent, REAL.replace('"1-20"', '"1-10"'))
    assert refused(whole, load(real)) == [], "40 of 86 are less than half"
    assert refused(whole, load(write(real.parent, REAL.replace("vlan[", "vlna[")))) != []


@pytest.mark.parametrize("key", ['peers = ["192.0.2.200"]', 'destination = "239.0.0.1"'])
def test_masters_that_get_other_peers_or_another_group_are_not_lost(
    tmp_path: Path, key: str
) -> None:
    given = '[defaults]\npassphrase = "secret"\n{}\n{}'
    table = '[[virtual_host]]\ninterface = "{}"\nvhid = "1-9"\naddresses = "192.0.2.{{vhid}}/24"\n'
    old = load(write(tmp_path, given.format("", table.format("eth0"))))
    new = load(write(tmp_path, given.format(key, table.format("eth0"))))
    difference = compare(running(old), new)
    assert (len(difference.added), len(difference.removed)) == (9, 9)
    assert refused(old, new) == []
    # On another interface it is not the same one.
    elsewhere = load(write(tmp_path, given.format(key, table.format("eth1"))))
    (line,) = refused(old, elsewhere)
    assert line.startswith("9 of 9 virtual hosts that are MASTER would be removed")


def test_backups_are_removed_but_not_all_of_them(real: Path) -> None:
    whole = load(real)
    few = load(write(real.parent, 'include = "conf.d/*.toml"\n'))
    assert refused(whole, few, BACKUP) == []
    none = load(write(real.parent, "# nothing left\n"))
    (line,) = refused(whole, none, BACKUP)
    assert line.startswith("every virtual host would be removed (vlan10/1, vlan10/2")
    assert refused(none, none) == []


def test_an_include_pattern_that_matched_is_not_taken_for_one_without_files(real: Path) -> None:
    whole = load(real)
    for path in (real.parent / "conf.d").iterdir():
        path.rename(path.with_name(f".{path.name}.swp"))
    (line,) = refused(whole, load(real))
    assert line == f'{real}: include = "conf.d/*.toml" matched 2 files and now matches none'
    # One that never matched, and one that is no longer there, are as they were meant.
    assert refused(load(real), load(real)) == []
    assert refused(whole, load(write(real.parent, REAL.replace("include", "# include")))) == []


def test_a_file_that_always_lacked_its_last_line_end_is_whole(tmp_path: Path) -> None:
    write(tmp_path, HOST.rstrip())
    old = load(tmp_path / "carp.toml")
    write(tmp_path, HOST.rstrip() + " ")
    assert refused(old, load(tmp_path / "carp.toml")) == []


# ------------------------------------------------------------------------ changes while it is read


def after_reading(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[], object], times: int = 1
) -> None:
    """Lets `change` happen just after a file of this name was read, the first times it is."""
    note, left = readings.Readings.note, [times]

    def noted(self: readings.Readings, path: Path, status: os.stat_result, content: bytes) -> None:
        note(self, path, status, content)
        if path.name == name and left[0]:
            left[0] -= 1
            change()

    monkeypatch.setattr(readings.Readings, "note", noted)


def rest(*paths: Path) -> None:
    """Lets files be as old as those of a configuration at rest."""
    for path in paths:
        os.utime(path, (time.time() - 60, time.time() - 60))


def test_a_file_at_rest_is_read_once_and_without_a_wait(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest(real, *real.parent.rglob("*"))
    monkeypatch.setattr(readings, "pause", lambda s: pytest.fail("waited"))
    reads: list[str] = []
    after_reading(monkeypatch, real.name, lambda: reads.append("read"), times=9)
    assert len(load_settled(real).virtual_hosts) == 86
    assert reads == ["read"]


CHANGES: dict[str, tuple[str, str, str]] = {
    # which file changes just after it was read, what is there then, and what is read in the end
    "written in place": ("carp.toml", "carp.toml", REAL.replace('"1-20"', '"1-21"')),
    "included": ("one.toml", "conf.d/one.toml", HOST.replace("7", "[7, 8, 9, 10]")),
    "passphrase": ("secret", "secret", "another\n"),
    "a file that appears": (
        "two.toml",
        "conf.d/zzz.toml",
        HOST.replace("eth0", "eth8").replace("7", "[7, 8, 9, 10]"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("atomic", [False, True])
def test_what_changes_while_it_is_read_is_read_again(
    real: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: str,
    atomic: bool,
) -> None:
    name, target, content = CHANGES[change]
    rest(real, *real.parent.rglob("*"))

    def write_now() -> None:
        if atomic:
            write(real.parent, content, f"{target}.new").rename(real.parent / target)
        else:
            write(real.parent, content, target)

    after_reading(monkeypatch, name, write_now)
    with caplog.at_level(logging.INFO, LOGGER):
        made = load_settled(real)
    assert "changed while the configuration was read: reading it again (1 of 20)" in caplog.text
    if change == "passphrase":
        assert {host.settings.passphrase for host in made.virtual_hosts} == {
            Passphrase(b"another"),
            Passphrase(b"k3Jx9QpL2mZt"),
        }
    else:
        assert len(made.virtual_hosts) == 90 if change != "included" else 89


def at_first_wait(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Runs `do` while files that are young are waited for, in place of the first wait.

    Then all files are old, whenever they were written.
    """
    left = [do]

    def pause(seconds: float) -> None:
        if left:
            left.pop()()
            now_s = time.time()
            monkeypatch.setattr(time, "time", lambda: now_s + 3600.0)

    monkeypatch.setattr(readings, "pause", pause)


def test_a_half_written_file_is_waited_for(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncated, then written in two pieces, as an editor does that writes in place."""
    half = len(REAL) // 2
    with open(real, "w") as file:
        file.write(REAL[:half])
        file.flush()
        begun_s = real.stat().st_mtime
        monkeypatch.setattr(time, "time", lambda: begun_s + readings.SETTLE_S / 2)

        def write_the_rest() -> None:
            file.write(REAL[half:])
            file.flush()

        at_first_wait(monkeypatch, write_the_rest)
        assert len(load_settled(real).virtual_hosts) == 86


def test_an_editor_that_renames_first_does_not_hide_a_file(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest(real, *real.parent.rglob("*"))
    one = real.parent / "conf.d/one.toml"
    one.rename(one.with_name("one.toml~"))
    renamed_s = one.parent.stat().st_mtime
    monkeypatch.setattr(time, "time", lambda: renamed_s + readings.SETTLE_S / 2)
    at_first_wait(monkeypatch, lambda: write(real.parent, HOST, "conf.d/one.toml"))
    assert len(load_settled(real).virtual_hosts) == 86


def test_a_file_that_never_rests_is_a_fault(
    real: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rest(real, *real.parent.rglob("*"))
    monkeypatch.setattr(readings, "pause", lambda s: None)
    turn = [0]

    def append() -> None:
        turn[0] += 1
        with open(real, "a") as file:
            file.write(f"# {turn[0]}\n")

    after_reading(monkeypatch, real.name, append, times=100)
    with caplog.at_level(logging.INFO, LOGGER), pytest.raises(ConfigurationError) as caught:
        load_settled(real)
    assert str(caught.value) == (
        f"{real}: changed during each of 20 attempts to read it; allowed: files at rest"
    )
    assert turn == [readings.READINGS_MAX]


def test_faults_of_a_file_that_was_being_written_are_not_told(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(real.parent, REAL[:100])
    rest(real, *real.parent.rglob("*"))
    after_reading(monkeypatch, real.name, partial(write, real.parent, REAL))
    assert len(load_settled(real).virtual_hosts) == 86


def test_a_pipe_gives_a_configuration_once_or_a_fault_but_holds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "carp.toml"
    os.mkfifo(path, 0o600)
    monkeypatch.setattr(readings, "PIPE_WAIT_S", 0.05)
    with pytest.raises(ConfigurationError, match=r"no data came from this pipe for 0\.05 s"):
        load_settled(path)
    ends = os.pipe()
    os.write(ends[1], HOST.encode())
    os.close(ends[1])
    try:
        assert len(load_settled(Path(f"/dev/fd/{ends[0]}")).virtual_hosts) == 1
    finally:
        os.close(ends[0])
    ends = os.pipe()
    os.close(ends[1])
    try:
        with pytest.raises(ConfigurationError, match="a pipe that gives no data"):
            load_settled(Path(f"/dev/fd/{ends[0]}"))
    finally:
        os.close(ends[0])
