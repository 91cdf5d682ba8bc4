"""How a successor's process begins: what it does as root, and when it reads what it is sent."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from carp_fast.config.load import Configuration, load_settled
from carp_fast.config.model import User
from carp_fast.daemon import run, upgrade_state
from carp_fast.daemon import user as user_module
from carp_fast.daemon.privileges import Privileges
from carp_fast.daemon.process import StartError
from carp_fast.daemon.table import Places
from carp_fast.programs.memory import Sealed, sealed
from tests.support.configurations import HOST, write

USER = User("ours", 4711, 4711)
OTHER = User("other", 4712, 4712)
DAEMON = '[daemon]\nstate_directory = "/tmp/state"\ncontrol_socket = "/tmp/run/control.sock"\n'


class Beginning:
    """`did`: the steps of a successor, in their order. `found`: the files; `sent`: what runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: Configuration, sent: Configuration):
        self.did: list[Any] = []
        self.becomes: User | None = USER
        self.found, self.sent = found, sent
        monkeypatch.setattr(run, "_loaded", lambda stack, path: (None, found))
        monkeypatch.setattr(run, "leave_root", self.leave_root)
        monkeypatch.setattr(run, "_launch_own", self.launch)

    def leave_root(
        self, configuration: Configuration, pid_file: Path | None, *, succeeds: bool
    ) -> Privileges:
        assert succeeds
        self.did.append(("leave root", self.name_of(configuration)))
        privileges = Privileges(None, Path("/dev/null"))
        privileges.user = self.becomes
        return privileges

    def launch(self, configuration: Configuration, *others: Any) -> None:
        self.did.append(("launch", self.name_of(configuration)))

    def name_of(self, configuration: Configuration) -> str:
        return "files" if configuration is self.found else "sent"

    def running(self) -> Sealed:
        self.did.append("read")
        places = Places()
        document = upgrade_state.running(self.sent, places)
        return Sealed(sealed("running", [upgrade_state.encode(document)]), 1 << 20)

    def begin(self, uid: int = USER.uid, *, as_user: bool = True) -> list[Any]:
        succession: Any = SimpleNamespace(as_user=as_user, uid=uid, running=self.running)
        with ExitStack() as stack:
            run._run_after(stack, succession, Path("carp.toml"), None)
        return self.did


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose usual user is USER."""
    monkeypatch.setattr(user_module, "usual_user", lambda: USER)


def made(directory: Path, keys: str = "") -> Configuration:
    return load_settled(write(directory, f"{DAEMON}{keys}\n{HOST}"))


def test_after_a_daemon_of_root_what_runs_decides_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beginning = Beginning(monkeypatch, made(tmp_path), made(tmp_path))
    did = ["read", ("leave root", "sent"), ("launch", "sent")]
    assert beginning.begin(uid=0, as_user=False) == did


def test_after_another_daemon_the_files_do_and_nothing_is_read_as_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, usual: None
) -> None:
    beginning = Beginning(monkeypatch, made(tmp_path), made(tmp_path, "hook_concurrency = 3"))
    assert beginning.begin() == [("leave root", "files"), "read", ("launch", "sent")]


def test_another_user_than_the_daemons_is_refused_before_anything_is_given_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, usual: None
) -> None:
    beginning = Beginning(monkeypatch, made(tmp_path), made(tmp_path))
    text = r"the daemon is uid 4712, and with .* it would be ours \(uid 4711\); restart it instead"
    with pytest.raises(StartError, match=text):
        beginning.begin(OTHER.uid)
    monkeypatch.setattr(user_module, "usual_user", lambda: None)
    with pytest.raises(StartError, match=r"it would be root \(uid 0\)"):
        beginning.begin()
    assert beginning.did == []


def test_one_that_stays_root_reads_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, usual: None
) -> None:
    beginning = Beginning(monkeypatch, made(tmp_path), made(tmp_path))
    beginning.becomes = None
    with pytest.raises(StartError, match=r"a daemon stays root .its log tells why"):
        beginning.begin()
    assert beginning.did == [("leave root", "files")]


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (("/tmp/state", "/tmp/other"), "daemon.state_directory"),
        (("/tmp/run/", "/tmp/other/"), "daemon.control_socket"),
        (("[daemon]", '[daemon]\nmetrics = "/tmp/metrics/sock"'), "daemon.metrics"),
        (("vhid = 7", 'vhid = 7\nup = "json:loads"'), "hooks that are functions"),
    ],
)
def test_what_is_sent_cannot_widen_what_the_files_allow(
    change: tuple[str, str],
    differs: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    usual: None,
) -> None:
    text = DAEMON + HOST
    files, sent = (load_settled(write(tmp_path, each)) for each in (text, text.replace(*change)))
    beginning = Beginning(monkeypatch, files, sent)
    with pytest.raises(StartError, match=f"^{differs}: not as they were applied"):
        beginning.begin()
    assert beginning.did == [("leave root", "files"), "read"]
