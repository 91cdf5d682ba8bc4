"""Cases about the daemon's surroundings: its files, signals, descriptors, clients and hooks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import threading
import time
from pathlib import Path

from carp_fast.control.protocol import ControlError
from carp_fast.lab.lab import wait_for
from tests.chaos.case import Run, case
from tests.chaos.programs import SECOND
from tests.chaos.world import World

F_SETPIPE_SZ, PIPE_BYTES = 1031, 4096
SIGNAL_DELAYS_S = (0.0, 0.1, 0.2, 0.3, 0.4)
CLIENTS = 80  # silent ones, more than there are places
SMALL_DISK = """
mount -t tmpfs -o size=64k,mode=0700 state "$0" || exit 99
exec "$@"
"""
FULL_DISK = SMALL_DISK.replace("exec", 'cat /dev/zero > "$0/fill" 2>/dev/null\nexec')


@case(quick=True)
def config_accidents(run: Run) -> None:
    """Reloads of a file that is cut short, empty, gone, a directory or binary change nothing."""
    with World(run, hosts=("a",)) as world:
        world.start_pair()
        program = world.carp_fast("a")
        path, daemon = program.configuration, program.daemon
        full = path.read_bytes()

        def refused(what: str) -> None:
            world.note(f"reload of a configuration that is {what}")
            try:
                daemon.reload()
            except ControlError:
                pass
            summary = daemon.summary()
            run.require(
                (summary["virtual_hosts"], summary["master"]) == (3, 3),
                f"{what}: after the reload {summary}",
            )

        for length in range(0, len(full), 9 if run.quick else 3):
            path.write_bytes(full[:length])
            refused(f"cut at {length}")
        path.write_bytes(run.random.randbytes(4000))
        refused("binary")
        path.unlink()
        refused("gone")
        path.mkdir()
        refused("a directory")
        path.rmdir()
        path.touch(mode=0o600)
        path.write_bytes(full)
        daemon.reload()


@case(quick=True)
def config_fifo(run: Run) -> None:
    """The configuration is a FIFO that nobody writes to, as on a dead file server, at a reload."""
    with World(run, hosts=("a",)) as world:
        world.start_pair()
        program = world.carp_fast("a")
        path, full = program.configuration, program.configuration.read_bytes()
        path.unlink()
        os.mkfifo(path, 0o600)
        world.note("SIGHUP")
        program.daemon.process.signal(signal.SIGHUP)
        world.sleep(3 * world.tempo.interval_s("a"))
        run.require(program.daemon.summary()["master"] == 3, "status while the reload waits")
        if run.quick:
            return  # and is ended while it waits
        path.unlink()
        path.touch(mode=0o600)
        path.write_bytes(full)
        began_at = time.monotonic()

        def reloaded() -> bool:
            with contextlib.suppress(ControlError):
                program.daemon.reload()
                return True
            return False

        wait_for(reloaded, 60, "a reload of the file that is back")
        run.figure("reloads again after", time.monotonic() - began_at, "s")


@case(quick=True)
def signals_at_start(run: Run) -> None:
    """SIGHUP and SIGUSR1 arrive while the daemon starts, as soon as it can catch them."""
    with World(run, hosts=("a",)) as world:
        for number in (signal.SIGHUP, signal.SIGUSR1):
            for delay_s in SIGNAL_DELAYS_S[:: 5 if run.quick else 1]:
                program = world.start("a", ready=False)
                process = program.processes[0]
                wait_for(lambda n=number, p=process: catches(p.pid, n), 20, "a handler")  # type: ignore[misc]
                time.sleep(delay_s)
                program.signal(number)
                world.wait_ready("a")
                world.stop("a")
        world.start_pair()


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


@case(quick=True)
def hup_storm(run: Run) -> None:
    """SIGHUP fifty times a second."""
    with World(run, hosts=("a",), count=100) as world:
        world.start_pair()
        daemon = world.carp_fast("a").daemon
        sent = 0
        end_at = time.monotonic() + (1.5 if run.quick else min(run.seconds, 20))
        while time.monotonic() < end_at:
            daemon.process.signal(signal.SIGHUP)
            sent += 1
            time.sleep(0.02)
        began_at = time.monotonic()
        run.require(daemon.summary()["master"] == 100, "not all MASTER after the storm")
        count = -1
        while count != len(daemon.log_lines("reloaded in")):
            count = len(daemon.log_lines("reloaded in"))
            time.sleep(0.5)
        run.figure("SIGHUPs", str(sent))
        run.figure("reloads", str(count))
        run.figure("the last one after", time.monotonic() - began_at, "s")
        run.require(time.monotonic() - began_at < 10 + world.delay_s, "reloads go on")


@case(quick=True)
def lock_of_others(run: Run) -> None:
    """Another user holds a lock on the directory of the control socket."""
    with World(run, hosts=("a",)) as world:
        directory = os.open(world.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            world.start_pair()
        finally:
            os.close(directory)


@case(quick=True)
def second_daemon(run: Run) -> None:
    """A second daemon with the same configuration is started beside the first."""
    with World(run) as world:
        world.start_pair()
        program = world.carp_fast("a")
        argv = [*program.daemon.process.argv[:3], "run", "-c", str(program.configuration)]
        done = world.lab["a"].run(argv, check=False, deadline_s=60)
        run.require(done.returncode == 1, f"the second one ended with {done.returncode}")
        run.require(len(done.stderr.splitlines()) <= 3, f"it printed {done.stderr}")
        world.settle("a")


@case(quick=True)
def control_socket_deleted(run: Run) -> None:
    """Somebody deletes the control socket."""
    with World(run, hosts=("a",)) as world:
        world.start_pair()
        daemon = world.carp_fast("a").daemon
        daemon.control_socket.unlink()
        world.note("control socket deleted")
        wait_for(lambda: answers(world), 30, "an answer on a new control socket")


def answers(world: World) -> bool:
    try:
        return world.carp_fast("a").daemon.summary()["master"] == len(world.keys)
    except (ControlError, OSError):
        return False


@case(quick=True)
def silent_clients(run: Run) -> None:
    """More clients than it serves connect to the control socket and say nothing."""
    with World(run, hosts=("a",)) as world, contextlib.ExitStack() as clients:
        world.start_pair()
        path = world.carp_fast("a").daemon.control_socket
        for _ in range(CLIENTS):
            client = clients.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(path))
        world.note(f"{CLIENTS} clients connected")
        wait_for(lambda: answers(world), 15, "an answer beside the silent clients")
        world.sleep(3 * world.tempo.interval_s("a"))


@case(quick=True)
def disk_full(run: Run) -> None:
    """The state directory is on a full file system: a reload, SIGKILL, and a start."""
    with World(run, hosts=("a",), count=2) as world:
        state = world.directory / "disk"
        state.mkdir(mode=0o700)
        before = ("unshare", "--mount", "sh", "-c", SMALL_DISK, state)
        world.start("a", before=before, daemon={"state_directory": str(state / "state")})
        world.settle("a")
        world.begin()
        program = world.carp_fast("a")
        fill(Path(f"/proc/{program.daemon.process.pid}/root{state}"))
        world.note("the disk is full")
        table = {**world.tables[0], "unsigned_addresses": ["10.1.2.{vhid}/32"]}
        program.write([table])
        with contextlib.suppress(ControlError):  # refused, or done without its state file
            program.daemon.reload()
        run.require(program.daemon.summary()["master"] == 2, "not all MASTER after the reload")
        world.settle("a")
        program.write()
        with contextlib.suppress(ControlError):
            program.daemon.reload()
        world.settle("a")


@case(quick=True)
def disk_full_start(run: Run) -> None:
    """The state directory is on a full file system when it starts, after SIGKILL."""
    with World(run, count=2) as world:
        state = world.directory / "disk"
        state.mkdir(mode=0o700)
        world.start_pair(preempt=True)
        world.limits.take_overs = 2
        world.kill("a")
        world.settle("b")
        before = ("unshare", "--mount", "sh", "-c", FULL_DISK, state)
        world.start("a", before=before, daemon={"state_directory": str(state / "state")})
        world.settle("a")


def fill(directory: Path) -> None:
    with contextlib.suppress(OSError), open(directory / "fill", "wb", buffering=0) as file:
        while True:
            file.write(bytes(512))


@case(quick=True)
def stderr_blocked(run: Run) -> None:
    """stderr is a pipe that nobody reads, and the link flaps."""
    with World(run, count=100) as world:
        pipe = world.directory / "stderr"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDWR)
        try:
            fcntl.fcntl(reader, F_SETPIPE_SZ, PIPE_BYTES)
            before = ("sh", "-c", f'exec "$@" 2>{pipe}', "sh")
            arguments = ("--log-level", "debug")
            world.start("a", before=before, arguments=arguments)
            world.settle("a")
            world.start("b")
            world.settle("a")  # so that b has heard a
            world.begin()
            world.limits.take_overs = 1
            world.ip("a", "link set s1 down")
            world.settle("b")
            world.ip("a", "link set s1 up")
            world.settle("b")
            run.require(answers_status(world), "status does not answer")
            world.stop("a")
        finally:
            os.close(reader)


def answers_status(world: World) -> bool:
    with contextlib.suppress(ControlError):
        return world.carp_fast("a").daemon.summary()["virtual_hosts"] == len(world.keys)
    return False


@case(quick=True)
def closed_descriptors(run: Run) -> None:
    """It is started with standard input, output and error closed."""
    with World(run) as world:
        world.start("a", before=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))
        world.settle("a")
        world.start("b", before=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"))
        world.begin()
        world.sleep(2 * world.tempo.interval_s("a"))
        world.settle("a")


@case(quick=True)
def hooks_hang(run: Run) -> None:
    """Every up and down script hangs."""
    with World(run, count=12) as world:
        script = world.directory / "hook"
        script.write_text("#!/bin/sh\nexec sleep 600\n")
        script.chmod(0o755)
        defaults = {"up": str(script), "down": str(script), "preempt": True}
        world.start_pair(defaults=defaults, daemon={"hook_timeout_s": 1})
        world.limits.take_overs = 2
        world.ip("a", "link set s1 down")
        world.settle("b")
        world.ip("a", "link set s1 up")
        world.settle("a")


@case(quick=True)
def status_storm(run: Run) -> None:
    """Clients ask for the whole status again and again."""
    with World(run, hosts=("a",), count=255) as world:
        world.start_pair()
        end_at = time.monotonic() + (1.5 if run.quick else min(run.seconds, 20))
        answered = [0] * 4

        def ask(number: int) -> None:
            while time.monotonic() < end_at:
                world.carp_fast("a").daemon.status()
                answered[number] += 1

        askers = [threading.Thread(target=ask, args=(number,)) for number in range(len(answered))]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        run.figure("answers", str(sum(answered)))
        run.require(all(answered), "a client had no answer")


@case(quick=True)
def pump_in_loop(run: Run) -> None:
    """`pump = "loop"`, without a thread of its own: the master is killed, and started again.

    Without a thread there is no priority: on a busy machine it may not run for half a second.
    """
    with World(run, tempo=SECOND) as world:
        world.start_pair(preempt=True, daemon={"pump": "loop"})
        world.limits.take_overs = 2
        world.kill("a")
        world.settle("b")
        world.start("a")
        world.settle("a")
