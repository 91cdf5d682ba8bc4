"""The unit of contrib under a systemd that is booted for it, from its start to the poweroff."""

from __future__ import annotations

import json
import select
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from carp_fast.control.protocol import ControlError
from carp_fast.lab.lab import Host, Lab, LabError, wait_for
from carp_fast.lab.observer import Key, Observer
from tests.support.daemons import PASSPHRASE
from tests.support.managed import THERE, UNIT, ManagedDaemon, ManagedMachine, missing
from tests.support.recording import advertisement_socket
from tests.support.segment import carp_digest, ip

pytestmark = pytest.mark.root

LACKING = missing()
ALONE = {"dead_ratio": 1}  # where no other host advertises: MASTER after 1 s
DEADLINE_S = 60.0
EVERY = {"10.1.1.1", "10.1.1.2", "10.1.1.3"}
# Like the units of a distribution that configure interfaces.
NETWORK = """
[Unit]
Before=network.target
Wants=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip link set s1 up
ExecStop=ip link set s1 down

[Install]
WantedBy=multi-user.target
"""
# Starts carp-fast when there is a line to read.
LONG_ENTRY = f"""
import logging, sys
sys.path.insert(0, "{THERE}")
from carp_fast.daemon import journal, systemd
journal.SEND_BUFFER_BYTES = 4096
systemd.start_logging("journal")
logging.critical("%s", "long\\n" * 50_000)
"""
HELD = """#!/bin/sh
read -r line < /run/held && exec /usr/bin/carp-fast run
"""


class Service:
    """A machine on host a of a lab, and the daemon of its unit; host b only listens."""

    def __init__(self, lab: Lab, machine: ManagedMachine) -> None:
        self.lab = lab
        self.machine = machine
        self.daemon = ManagedDaemon(machine)

    @property
    def host(self) -> Host:
        return self.machine.host

    def configure(self, vhids: str = "1-3", **keys: Any) -> None:
        table = {"interface": "s1", "vhid": vhids, "addresses": ["10.1.1.{vhid}/32"], **keys}
        self.machine.configure([table], defaults=ALONE)

    def start(self) -> None:
        """Starts the unit, which is a master of all its virtual hosts on return."""
        self.machine.systemctl("start", UNIT)
        self.wait_held()

    def wait_held(self) -> None:
        self.daemon.wait_state("MASTER", 10)
        wait_for(lambda: len(self.held()) == len(self.daemon.states()), 10, "every address")

    def held(self) -> set[str]:
        return {address for _, address in self.host.addresses()} - {self.host.address(1)}

    def wait_restarted(self, before: int) -> None:
        """Returns when systemd has put another process in place of the main one `before`."""

        def restarted() -> bool:
            state, number, pid = self.machine.shown("ActiveState", "NRestarts", "MainPID")
            return state == "active" and int(number) > 0 and int(pid) not in (0, before)

        wait_for(restarted, DEADLINE_S, "another process")


@pytest.fixture
def service(lab_factory: Callable[..., Lab], tmp_path: Path) -> Iterator[Service]:
    """The unit is installed, and the configuration has three virtual hosts."""
    if LACKING is not None:
        pytest.skip(LACKING)
    lab = lab_factory(segments=1)
    with ManagedMachine(lab["a"], tmp_path) as machine:
        machine.boot()
        machine.install()
        made = Service(lab, machine)
        made.configure()
        yield made


def test_the_unit_is_active_only_when_the_daemon_answers(service: Service) -> None:
    machine = service.machine
    machine.write("usr/local/bin/held", HELD, 0o755)
    machine.run("mkfifo", "/run/held")
    machine.install(ExecStart="\nExecStart=/usr/local/bin/held")
    machine.systemctl("start", "--no-block", UNIT)
    machine.wait_shown({"ActiveState": "activating", "SubState": "start"}, DEADLINE_S)
    with pytest.raises(ControlError):
        service.daemon.status()
    machine.run("sh", "-c", "echo go > /run/held")
    machine.wait_shown({"ActiveState": "active", "StatusText": "3 virtual hosts"}, DEADLINE_S)
    assert len(service.daemon.states()) == 3


def test_the_main_process_is_the_daemon_and_the_journal_has_its_lines(service: Service) -> None:
    machine = service.machine
    service.start()
    pid = machine.main_pid()
    assert service.daemon.status()["daemon"]["pid"] == pid
    (group,) = machine.shown("ControlGroup")
    processes = machine.run("cat", f"/sys/fs/cgroup{group}/cgroup.procs").stdout.split()
    (helper,) = set(processes) - {str(pid)}
    assert machine.run("cat", f"/proc/{helper}/comm").stdout == "carp-helper\n"
    machine.systemctl("stop", UNIT)
    ours = [entry for entry in machine.journal() if entry["_PID"] == str(pid)]
    levels = {entry["MESSAGE"]: int(entry["PRIORITY"]) for entry in ours}
    assert levels["s1/1: INIT -> BACKUP (started)"] == 6
    assert levels["s1/1: BACKUP -> MASTER (master_down)"] == 6
    assert levels["s1/1: MASTER -> INIT (resigned)"] == 6
    assert not [message for message in levels if message.startswith("<")]
    assert {entry["_SYSTEMD_UNIT"] for entry in ours} == {UNIT}
    query = ("CARP_VHID=2", "CARP_STATE=MASTER", f"_PID={pid}", "--output=json", "--no-pager")
    (taken_over,) = map(json.loads, machine.run("journalctl", *query).stdout.splitlines())
    assert taken_over["MESSAGE"] == "s1/2: BACKUP -> MASTER (master_down)"
    assert taken_over["CARP_INTERFACE"] == "s1"
    assert taken_over["SYSLOG_IDENTIFIER"] == "carp-fast"
    # What is too long for a datagram, from the memory in which journald gets it.
    python = (machine.root / "usr/bin/carp-fast").read_text().partition("\n")[0].removeprefix("#!")
    machine.run(python, "-c", LONG_ENTRY)
    machine.run("journalctl", "--sync")
    long = ("--identifier=carp-fast", "PRIORITY=2", "--output=cat", "--no-pager")
    assert machine.run("journalctl", *long).stdout == "long\n" * 50_000 + "\n"


# -- reload


def test_a_reload_applies_the_configuration_unless_it_is_faulty(service: Service) -> None:
    machine = service.machine
    service.start()
    pid = machine.main_pid()
    service.configure("2-4", advskew=255)
    with pytest.raises(LabError):
        machine.systemctl("reload", UNIT)
    (text,) = machine.shown("StatusText")
    assert text.startswith("3 virtual hosts; the last reload changed nothing: ")
    assert "advskew = 255" in service.daemon.log
    assert service.daemon.states() == dict.fromkeys([("s1", n) for n in (1, 2, 3)], "MASTER")
    assert service.held() == EVERY

    service.configure("2-4")
    machine.systemctl("reload", UNIT)
    assert service.daemon.states().keys() == {("s1", n) for n in (2, 3, 4)}
    service.wait_held()
    assert service.held() == {"10.1.1.2", "10.1.1.3", "10.1.1.4"}
    assert machine.shown("StatusText", "MainPID") == ["3 virtual hosts", str(pid)]
    assert "s1/2: MASTER ->" not in service.daemon.log


# -- faults


def test_a_stopped_daemon_is_replaced_by_the_watchdog(service: Service) -> None:
    machine = service.machine
    machine.install(WatchdogSec="4s")
    service.start()
    pid = machine.main_pid()
    machine.run("kill", "-STOP", str(pid))
    service.wait_restarted(pid)
    about = [entry["MESSAGE"] for entry in machine.journal() if entry["_PID"] == "1"]
    assert any("Watchdog timeout" in message for message in about), about
    service.wait_held()
    assert service.held() == EVERY


def test_a_killed_daemon_is_restarted_and_takes_its_addresses_back(service: Service) -> None:
    machine = service.machine
    service.start()
    pid = machine.main_pid()
    machine.run("kill", "-KILL", str(pid))
    service.wait_restarted(pid)
    service.wait_held()
    assert service.held() == EVERY
    # It knows the addresses as its own again: it removes them.
    machine.systemctl("stop", UNIT)
    assert service.held() == set()


def test_a_start_with_a_faulty_configuration_fails(service: Service) -> None:
    service.configure(advskew=255)
    with pytest.raises(LabError):
        service.machine.systemctl("start", UNIT)
    messages = [entry["MESSAGE"] for entry in service.machine.journal()]
    assert any("advskew = 255" in message for message in messages), messages
    assert service.held() == set()


# -- the end


def test_a_stop_resigns_and_removes_the_addresses(service: Service) -> None:
    machine = service.machine
    with Observer(service.lab["b"]) as observer:
        service.start()
        machine.systemctl("stop", UNIT)
        wait_resigned(observer, service.host)
    assert service.held() == set()
    assert machine.shown("ActiveState", "Result", "MainPID") == ["inactive", "success", "0"]
    assert not (machine.root / "run/carp-fast").exists()


def test_a_boot_starts_what_is_enabled_and_a_poweroff_resigns_before_the_network_goes(
    service: Service,
) -> None:
    machine = service.machine
    machine.write("etc/systemd/system/interfaces.service", NETWORK)
    machine.systemctl("daemon-reload")
    machine.systemctl("enable", UNIT, "interfaces.service")
    with Observer(service.lab["b"]) as observer:
        machine.systemctl("isolate", "multi-user.target")  # as at the end of a boot
        service.wait_held()
        machine.poweroff()
        wait_resigned(observer, service.host)
    assert service.held() == set()
    flags = service.host.run(["ip", "link", "show", "s1"]).stdout.partition(">")[0]
    assert "UP" not in flags, "the unit of the interfaces was stopped, too, so after this one"


def wait_resigned(observer: Observer, host: Host) -> None:
    """Returns when the last that was heard of each virtual host is its resignation."""
    keys = [Key(1, vhid) for vhid in (1, 2, 3)]
    observer.wait_until(
        lambda: all(observer.resigned(host, key) for key in keys), 10, "every resignation"
    )


# -- drop-ins


def test_with_the_drop_in_members_of_the_group_may_read(service: Service) -> None:
    machine = service.machine
    machine.run("groupadd", "--system", "carp-fast")
    machine.run("useradd", "--system", "--groups", "carp-fast", "alice")
    machine.run("useradd", "--system", "mallory")
    machine.install("control-group.conf")
    service.start()
    assert service.daemon.status()["daemon"]["control"]["group"] == "carp-fast"
    assert asked(machine, "alice", "status").returncode == 0
    changed = asked(machine, "alice", "reload")
    assert changed.returncode != 0
    assert "may not give the command reload" in changed.stderr
    refused = asked(machine, "mallory", "status")
    assert refused.returncode != 0
    assert "no permission for /run/carp-fast/control.sock" in refused.stderr


def asked(machine: ManagedMachine, user: str, command: str) -> CompletedProcess[str]:
    """Runs a command of carp-fast as a user, who may read every file where Python is in a home."""
    capability = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    group = ("--regid", user, "--init-groups")
    argv = ["setpriv", "--reuid", user, *group, *capability, "/usr/bin/carp-fast", command]
    return machine.run(*argv, "--control-socket", "/run/carp-fast/control.sock", check=False)


def test_with_the_drop_in_secrets_are_credentials(service: Service) -> None:
    machine = service.machine
    machine.run("mkdir", "-m", "0700", "/etc/credstore")
    machine.run("carp-fast", "secret", "key", "/etc/credstore/carp-fast.key")
    machine.write("etc/credstore/carp-fast.passphrase", PASSPHRASE, 0o600)
    encrypt = "carp-fast secret encrypt --key /etc/credstore/carp-fast.key"
    token = machine.run("sh", "-c", f"printf %s another-9Qx7 | {encrypt}").stdout.strip()
    secrets = ("passphrase_credential", "carp-fast.passphrase"), ("passphrase", token)
    tables = [
        {"interface": "s1", "vhid": vhid, "addresses": [f"10.1.1.{vhid}/32"], key: value}
        for vhid, (key, value) in enumerate(secrets, 1)
    ]
    machine.configure(tables, defaults=ALONE)
    machine.install("credentials.conf")
    with service.lab["b"].inside():
        listener = advertisement_socket()
    with closing(listener):
        service.start()
        waiting = {1: PASSPHRASE, 2: "another-9Qx7"}
        while waiting:
            assert select.select([listener], [], [], 5)[0], f"no advertisement of {waiting}"
            carp = listener.recv(128)[34:70]
            if carp[1] in waiting:
                key, address = waiting.pop(carp[1]).encode(), ip(f"10.1.1.{carp[1]}")
                assert carp[16:36] == carp_digest(key, carp[1], [address], carp[8:16])


def test_a_credential_that_is_missing_is_named_where_it_is_wanted(service: Service) -> None:
    """systemd starts a unit without it."""
    service.machine.install("credentials.conf")
    service.configure(passphrase_credential="carp-fast.passphrase")
    with pytest.raises(LabError):
        service.machine.systemctl("start", UNIT)
    messages = [entry["MESSAGE"] for entry in service.machine.journal()]
    wanted = 'passphrase_credential = "carp-fast.passphrase": cannot be read'
    assert any(wanted in message for message in messages), messages
