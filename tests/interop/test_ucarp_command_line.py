"""Command lines given to ucarp and to carp-fast in its place: spellings, refusals, background, log.

What is compared is what stands on the wire, on stdout and stderr, in the syslog and in /proc.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab, LabError, wait_for
from tests.support.dropin import (
    DEADLINE_S,
    PROGRAMS,
    SECRET,
    DropIn,
    Ear,
    Stage,
    need_ucarp,
    run_to_end,
    write_scripts,
)

pytestmark = pytest.mark.root

ETHERNET_AND_IP = 34
# Of Ethernet, IPv4 and CARP all but what is random: identification, counter, and what sums over it.
CONSTANT = [*range(18), *range(20, 24), *range(26, 40)]


@pytest.fixture
def lab(lab_factory: Callable[..., Lab], program: Callable[[str], str]) -> Lab:
    need_ucarp(program)
    return lab_factory("carp-fast-command-line", hosts=("a", "b"), segments=1)


def first_frame(lab: Lab, program: str, arguments: Sequence[str]) -> bytes:
    """The first advertisement of a program run on host a."""
    with Ear(lab["b"], 1) as ear:
        process = lab["a"].start([*PROGRAMS[program], *arguments], log=lab.directory / "log")
        try:
            [frame] = ear.frames(1)
        except AssertionError as error:
            raise AssertionError(f"{error}: {process.output()}") from None
        process.kill()
    return frame


SPELLINGS = {
    "long": "--interface s1 --srcip 10.1.0.1 --vhid 7 --pass x --addr 10.1.9.9 --advskew 64 -b 0",
    "with equals": "--interface=s1 --srcip=10.1.0.1 --vhid=7 --pass=x --addr=10.1.9.9 -b0 -k64",
    "abbreviated": "--int s1 --src 10.1.0.1 --vh=7 --pass=x --add 10.1.9.9 --advsk 64 --advb 0",
    "joined": "-is1 -s10.1.0.1 -v7 -px -a10.1.9.9 -zPnDb0 -k64",
    "other bases": "-i s1 -s 10.1.0.1 -v 0x07 -p x -a 10.1.9.9 -b 00 -k 0100 -r 0x3",
    "twice": "-i lo -i s1 -s 10.1.0.1 -v 9 -v7 -p y -p x -a 10.1.9.9 -b 5 -b 0 -k64",
    "with words between": "word -i s1 -s 10.1.0.1 -v 7 word -p x -a 10.1.9.9 -b0 -k64 -- -v9",
    "broadcast": "-i s1 -s 10.1.0.1 -v 7 -p x -a 10.1.9.9 -b 0 -k 64 -M",
    "broadcast, long": "-i s1 -s 10.1.0.1 -v 7 -p x -a 10.1.9.9 -b 0 -k 64 --nomcast",
    "another group": "-i s1 -s 10.1.0.1 -v 7 -p x -a 10.1.9.9 -b 0 -k 64 --mcast=239.1.130.3",
    "another one": "-i s1 -s 10.1.0.1 -v 7 -p x -a 10.1.9.9 -b 0 -k 64 --mcastip 239.1.2.3",
    "an alias": "-i s1:1 -s 10.1.0.1 -v 7 -p x -a 10.1.9.9 -b 0 -k 64",
    "skew 255": "-i s1 -s 10.1.0.1 -v 7 -p x -a 10.1.9.9 -b 0 -k 255",
    "longest password": "-i s1 -s 10.1.0.1 -v 7 -p 1234567890123456789 -a 10.1.9.9 -b 0 -k 64",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_what_goes_out_is_the_same(lab: Lab, spelling: str) -> None:
    """Ethernet, IP and CARP header byte by byte; that the digest fits is shown by the pairs."""
    frames = {name: first_frame(lab, name, SPELLINGS[spelling].split()) for name in PROGRAMS}
    assert {len(frame) for frame in frames.values()} == {ETHERNET_AND_IP + 36}
    ours, theirs = ([frame[i] for i in CONSTANT] for frame in frames.values())
    assert ours == theirs


def test_a_short_option_that_ucarp_documents_and_does_not_know(lab: Lab) -> None:
    line = [*SPELLINGS["skew 255"].split(), "-m", "239.1.2.3"]
    assert run_to_end(lab["a"], "ucarp", line)[0] == 0
    assert first_frame(lab, "carp-fast", line)[30:34] == bytes((239, 1, 2, 3))


def test_the_first_line_of_a_passfile_is_the_password(lab: Lab) -> None:
    """Its first line; that it is the right password is seen by a pair that keeps to one master."""
    secret = lab.directory / "secret"
    secret.write_text(f"{SECRET}\nanother line\n")
    secret.chmod(0o600)
    stage = Stage(lab, "carp-fast", 1)
    master = stage.start("-z", program="ucarp")
    master.wait_master()
    with Ear(lab["b"], 1) as ear:
        backup = stage.start("-z", "-P", "-k", "9", "--pass", "no", "-o", str(secret), host="b")
        backup.wait_line("Switching to state: BACKUP")
        ear.frames(5)
    assert backup.states == ["BACKUP"]
    assert "Bad digest" not in backup.log + master.log


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_alias_is_its_interface_and_scripts_get_it_as_given(lab: Lab, name: str) -> None:
    stage = Stage(lab, name, 1)
    running = stage.start("-z", "--interface", "s1:7")
    running.wait_master()
    assert running.end() == 0
    running.wait_calls("down", 2)
    assert {call.arguments for call in running.calls} == {f"s1:7 {stage.virtual}"}


def test_a_carriage_return_in_a_passfile_is_part_of_the_password_and_said(lab: Lab) -> None:
    secret = lab.directory / "secret"
    secret.write_bytes(f"{SECRET}\r\n".encode())
    secret.chmod(0o600)
    stage = Stage(lab, "carp-fast", 1)
    master = stage.start("-z", "-o", str(secret), program="ucarp")
    master.wait_master()
    with Ear(lab["b"], 1) as ear:
        backup = stage.start("-z", "-P", "-k", "9", "-o", str(secret), host="b")
        backup.wait_line("the password ends in a carriage return")
        ear.frames(5)
    assert backup.states == ["BACKUP"]
    assert "Bad digest" not in backup.log + master.log


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_needs_no_more_than_the_capability_of_packet_sockets(lab: Lab, name: str) -> None:
    """Addresses are the scripts' business."""
    stage = Stage(lab, name, 1)
    write_scripts(lab.directory / name)
    wrapper = ("setpriv", "--bounding-set=-net_admin")
    argv = [*wrapper, *PROGRAMS[name], *stage.basics(lab["a"]), "-z", "-b", "1"]
    argv += ["-u", str(lab.directory / name / "up"), "-d", str(lab.directory / name / "down")]
    process = lab["a"].start(argv, log=lab.directory / name / "log")
    running = DropIn(process, stage.interface, stage.virtual, lab.directory / name)
    running.wait_master()
    assert running.end() == 0


CLOSED = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("name", PROGRAMS)
def test_closed_standard_descriptors_harm_nothing(lab: Lab, name: str, closed: str) -> None:
    stage = Stage(lab, name, 1)
    write_scripts(lab.directory / name)
    line = [*PROGRAMS[name], *stage.basics(lab["a"]), "-z"]
    line += ["-u", str(lab.directory / name / "up"), "-d", str(lab.directory / name / "down")]
    argv = ["sh", "-c", f'exec "$@" {closed}', "sh", *line]
    process = lab["a"].start(argv, log=lab.directory / name / "log")
    running = DropIn(process, stage.interface, stage.virtual, lab.directory / name)
    running.wait_calls("up", 1)
    assert running.end() == 0


B = "-i s1 -s 10.1.0.1 -v 7 -p x -a 10.1.9.9 -u /bin/true -d /bin/true"  # a complete one
# Refused by both, with the same line and the same exit code.
REFUSED_ALIKE = {
    "-i s1": "You must supply a valid virtual host id",
    "-i s1 -v 0": "vhid must be between 1 and 255.",
    "-i s1 -v 256": "vhid must be between 1 and 255.",
    "-i s1 -v -1": "vhid must be between 1 and 255.",
    "-i s1 -v 1": "You must supply a password",
    "-i s1 -v 1 -p x": "You must supply a persistent source address",
    "-i s1 -v 1 -p x -s 0.0.0.0": "You must supply a persistent source address",
    "-i s1 -v 1 -p x -s 10.1.0.1": "You must supply a virtual host address",
    "-i s1 -s 10.1.0.300": "Invalid address: [10.1.0.300]",
    "-i s1 -a 010.1.0.3": "Invalid address: [010.1.0.3]",
    "--mcast=group": "Invalid address: [group]",
    "-o /nonexistent/secret": (
        "unable to open passfile /nonexistent/secret for reading: No such file or directory"
    ),
    "-o /dev/null": "error reading passfile /dev/null: unexpected end of file",
    "-o /etc": "error reading passfile /etc: Is a directory",
    f"{B} -b 0": "You must supply an advertisement time base",
    f"{B} -r 0": "Dead ratio can't be zero",
    f"{B} -p 12345678901234567890": "Password too long",
    f"{B} -f nonsense -v 0": "vhid must be between 1 and 255.",
}


@pytest.mark.parametrize("line", REFUSED_ALIKE)
def test_refused_by_both_in_the_same_words(lab: Lab, line: str) -> None:
    ended = {name: run_to_end(lab["a"], name, line.split()) for name in PROGRAMS}
    assert ended["carp-fast"] == ended["ucarp"]
    exit_code, lines = ended["carp-fast"]
    assert exit_code == (2 if "Password too long" in lines[-1] else 1)
    assert lines[-1] == f"[ERROR] {REFUSED_ALIKE[line]}"


# What ucarp wraps round or cuts off without a word, and what is said here; exit code 1.
WRAPPED = {
    "-b 257": "advbase must be between 0 and 255. [257]",
    "-b -1": "advbase must be between 0 and 255. [-1]",
    "-b 1s": "advbase must be between 0 and 255. [1s]",
    "-k 08": "advskew must be between 0 and 255. [08]",
    "-k 256": "advskew must be between 0 and 255. [256]",
    "-k -20": "advskew must be between 0 and 255. [-20]",
    "-r -1": "deadratio must be between 1 and 255. [-1]",
    "-r 1000": "deadratio must be between 1 and 255. [1000]",
    "-v 7th": "vhid must be between 1 and 255.",
}


@pytest.mark.parametrize("options", WRAPPED)
def test_what_ucarp_takes_for_something_else_is_refused(lab: Lab, options: str) -> None:
    exit_code, lines = run_to_end(lab["a"], "carp-fast", [*B.split(), *options.split()])
    assert (exit_code, lines) == (1, [f"[ERROR] {WRAPPED[options]}"])
    with pytest.raises(LabError):  # it runs
        run_to_end(lab["a"], "ucarp", [*B.split(), *options.split()], deadline_s=0.7)


# Not started, exit code 2: ucarp has run the down script by then, carp-fast nothing.
NOT_STARTED = {
    "-i nosuch": "Unable to find MAC address of [nosuch]",
    "-s 10.1.0.77": "Can't do IP_ADD_MEMBERSHIP errno=No such device (19)",
    "--mcast=10.1.0.9": "Can't do IP_ADD_MEMBERSHIP errno=Invalid argument (22)",
}


@pytest.mark.parametrize("options", NOT_STARTED)
def test_bad_options_refuse_the_start_with_exit_code_2(lab: Lab, options: str) -> None:
    for name in PROGRAMS:
        exit_code, lines = run_to_end(lab["a"], name, [*B.split(), *options.split()])
        assert exit_code == 2
        assert f"[ERROR] {NOT_STARTED[options]}" in lines
        assert any("Spawning" in line for line in lines) == (
            name == "ucarp" and "nosuch" not in options
        )


def test_help_goes_to_stdout_and_wrong_usage_is_refused(lab: Lab) -> None:
    """Help on stdout and exit code 0; wrong usage is 2 here, help and 0 there."""
    for line in ("-h", "--help", "--he", ""):
        for name in PROGRAMS:
            done = lab["a"].run([*PROGRAMS[name], *line.split()])
            assert "--deadratio=<ratio> (-r <ratio>): " in done.stdout
            assert done.stderr == ""
    for line, fault in {
        "--bogus": "option --bogus not recognized",
        "-Q": "option -Q not recognized",
        "--adv=1": "option --adv not a unique prefix",
        "-i": "option -i requires argument",
        "--pass": "option --pass requires argument",
        "--preempt=yes": "option --preempt must not have an argument",
    }.items():
        assert run_to_end(lab["a"], "ucarp", line.split())[0] == 0
        done = lab["a"].run([*PROGRAMS["carp-fast"], *line.split()], check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith(f": {fault}; see __main__.py ucarp --help\n")


def test_the_first_interface_is_taken_where_none_is_named(lab: Lab) -> None:
    line = SPELLINGS["skew 255"].split()[2:]
    for name in PROGRAMS:
        first_frame(lab, name, line)
    assert (lab.directory / "log").read_text().count(
        "[INFO] Using [s1] as a network interface"
    ) == 2


# -------------------------------------------------------------------------- background and syslog

# A /dev of its own, for a syslog socket of its own.
PRIVATE_DEV = """
set -e
mkdir DIR/dev
cp -a /dev/null /dev/zero /dev/urandom /dev/random /dev/tty DIR/dev/
ln -s /proc/self/fd DIR/dev/fd
ln -s DIR/syslog DIR/dev/log
mount --bind DIR/dev /dev
exec "$@"
"""


def with_syslog(directory: Path) -> tuple[socket.socket, list[str]]:
    """A syslog socket, and what to write in front of a command that is to find it."""
    syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    syslog.bind(str(directory / "syslog"))
    syslog.settimeout(DEADLINE_S)
    script = PRIVATE_DEV.replace("DIR", str(directory))
    return syslog, ["unshare", "--mount", "bash", "-c", script, "private-dev"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_in_the_background(
    lab: Lab, program: Callable[[str], str], name: str, tmp_path: Path
) -> None:
    """The command returns with 0; what it left runs detached and logs to syslog alone."""
    program("unshare")
    syslog, prefix = with_syslog(tmp_path)
    with syslog:
        write_scripts(tmp_path / "scripts")
        line = [*Stage(lab, name, 1).basics(lab["a"]), "-B", "-z", "-f", "local3", "-D"]
        line += ["-u", str(tmp_path / "scripts/up"), "-d", str(tmp_path / "scripts/down")]
        done = lab["a"].run([*prefix, *PROGRAMS[name], *line])
        # The real one has no time to say anything, ours says nothing either.
        assert (done.stdout, done.stderr) == ("", "")
        lines: list[str] = []
        while not any("Switching to state: BACKUP" in line for line in lines):
            lines.append(syslog.recv(4096).decode())
        pid = int(lines[-1].split("ucarp[")[1].split("]")[0])
        process = Path(f"/proc/{pid}")
        # PRIORITY: 19 (local3) x 8 + 4 (warning); then time, name, number.
        assert lines[-1][:5] == "<156>"
        assert lines[-1].endswith(f" ucarp[{pid}]: [WARNING] Switching to state: BACKUP")
        assert any(line.startswith("<158>") and "[INFO] Local adv" in line for line in lines)
        assert time.strptime(lines[-1][5:20], "%b %d %H:%M:%S")
        assert (process / "cwd").readlink() == Path("/")
        assert {(process / f"fd/{fd}").readlink() for fd in (0, 1, 2)} == {Path("/dev/null")}
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        parent, session = int(fields[1]), int(fields[3])
        assert session not in (pid, os.getsid(0))
        assert parent == 1 or Path(f"/proc/{parent}/comm").read_text() != "bash\n"
        os.kill(pid, 15)
        while not any("sighandler_exit" in line for line in lines):
            lines.append(syslog.recv(4096).decode())
        wait_for(lambda: not process.exists(), DEADLINE_S, "its end")


def test_in_the_background_what_cannot_start_says_so(lab: Lab) -> None:
    """Better than ucarp, which has left the foreground with 0 by then."""
    line = [*B.split(), "-B", "-i", "nosuch"]
    assert run_to_end(lab["a"], "ucarp", line) == (0, [])
    fault = "ucarp: Unable to find MAC address of [nosuch]"
    assert run_to_end(lab["a"], "carp-fast", line) == (2, [fault])


@pytest.mark.parametrize(("facility", "priority"), [("none", None), ("USER", 11), ("bogus", 27)])
def test_errors_carry_the_priority_of_the_facility(
    lab: Lab, program: Callable[[str], str], facility: str, priority: int | None, tmp_path: Path
) -> None:
    """What stands in front of an error; an unknown facility is said and stands for daemon."""
    program("unshare")
    for name in PROGRAMS:
        (tmp_path / name).mkdir()
        syslog, prefix = with_syslog(tmp_path / name)
        with syslog:
            syslog.setblocking(False)
            line = [*PROGRAMS[name], *B.split(), "-n", "-i", "nosuch", "-f", facility]
            said = lab["a"].run([*prefix, *line], check=False).stderr
            heard = []
            with suppress(BlockingIOError):
                while True:
                    heard.append(syslog.recv(4096))
        assert ("Unknown syslog facility: [bogus]" in said) == (facility == "bogus")
        assert {each[:4] for each in heard if b"[ERROR] Unable to find" in each} == (
            set() if priority is None else {f"<{priority}>".encode()}
        )


def test_what_a_service_manager_hears(lab: Lab, tmp_path: Path) -> None:
    """Ready when it takes part, alive, ending: for Type=notify with a watchdog."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE_S)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        process = lab["a"].start(
            [*PROGRAMS["carp-fast"], *B.split(), "-z"],
            log=tmp_path / "log",
            env={**os.environ, **told},
        )
        heard = manager.recv(4096)
        assert heard.startswith(b"READY=1\n")
        while not heard.startswith(b"WATCHDOG=1"):
            heard = manager.recv(4096)
        process.signal(signal.SIGTERM)
        while not heard.startswith(b"STOPPING=1"):
            heard = manager.recv(4096)
        assert process.wait(DEADLINE_S) == 0


# ------------------------------------------------------------------------------------- in /proc


@pytest.mark.parametrize(
    "password",
    [["-p", SECRET], [f"-p{SECRET}"], [f"--pass={SECRET}"], ["--pass", SECRET], [f"-zp{SECRET}"]],
    ids=["apart", "joined", "long with equals", "long apart", "among others"],
)
def test_the_password_is_in_no_file_of_proc(lab: Lab, password: list[str], tmp_path: Path) -> None:
    link = tmp_path / "ucarp"
    link.write_text(f"#!{sys.executable}\nfrom carp_fast.__main__ import main\nmain()\n")
    link.chmod(0o755)
    line = ["-i", "s1", "-s", "10.1.0.1", "-v", "7", "-a", "10.1.9.9", "-n", *password]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = lab["a"].start([link, *line], log=tmp_path / "log", env=environment)
    running = DropIn(process, "s1", "10.1.9.9", tmp_path)
    running.wait_line("Switching to state: BACKUP")
    shown = Path(f"/proc/{process.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    blotted = [word.replace(SECRET, "********") for word in line]
    assert [word.decode() for word in shown] == [str(link), *blotted]
    assert Path(f"/proc/{process.pid}/comm").read_text() == "ucarp\n"
    assert SECRET.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()
    # The real one shows it.
    theirs = lab["b"].start(["ucarp", *line, "-s", "10.1.0.2", "-f", "none"])
    found = Path(f"/proc/{theirs.pid}/cmdline")
    wait_for(lambda: b"ucarp" in found.read_bytes()[:5], DEADLINE_S, "ucarp")
    assert SECRET.encode() in found.read_bytes()
