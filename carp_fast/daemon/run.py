"""The process of `carp-fast run`: helper, configuration, user, and the daemon on a loop of its own.

Holds the two ways in which it begins, from the files and after another daemon, and `launch`, which
ucarp shares. Must not know what a daemon does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from carp_fast.config import load as config
from carp_fast.daemon import upgrade_state
from carp_fast.daemon.daemon import Inheritance, serve
from carp_fast.daemon.hooks import Hooks
from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.manner import Manner, Own
from carp_fast.daemon.privileges import Privileges
from carp_fast.daemon.process import (
    StartError,
    forbid_core_files,
    forbid_tracing,
    require_capabilities,
    share_memory,
)
from carp_fast.daemon.succeeding import Succession
from carp_fast.daemon.systemd import Systemd
from carp_fast.daemon.table import by_interface
from carp_fast.daemon.upgrade_state import Running
from carp_fast.daemon.user import leave_root, not_as_before, require_user
from carp_fast.privileged.client import PrivilegedHelper
from carp_fast.privileged.start import HelperError, Started
from carp_fast.privileged.start import take as take_started
from carp_fast.signals import inherit_nothing

__all__ = ["StartError", "launch", "open_helper", "run"]

LOOP_DESCRIPTORS = 12  # more than uvloop opens, some of them as it begins to run
STAYS_ROOT = (
    "with the configuration as it is now a daemon stays root (its log tells why), and this one is"
    " not; restart it instead"
)
RELOAD_FIRST = "not as they were applied, and not to be decided by a daemon without root; reload it"


def run(path: Path, pid_file: Path | None = None) -> int:
    """Reads the configuration and runs until SIGTERM or SIGINT; returns the exit code.

    A process that succeeds another daemon, see succeeding.py, runs what that one runs and reloads
    afterwards. Raises ConfigurationError and StartError before anything was changed.
    """
    inherit_nothing()
    forbid_core_files()
    forbid_tracing()
    share_memory()
    with ExitStack() as stack:
        succession = Succession.from_environment()
        if succession is None:
            _run_from_files(stack, path, pid_file)
            return 0
        stack.enter_context(succession)
        try:
            _run_after(stack, succession, path, pid_file)
        except Exception as error:  # whatever it is, the other daemon waits for the reason
            raise succession.failed(error) from error
    return 0


def _run_from_files(stack: ExitStack, path: Path, pid_file: Path | None) -> None:
    helper, configuration = _loaded(stack, path)
    privileges = stack.enter_context(leave_root(configuration, pid_file))
    _launch_own(configuration, privileges, helper)


def _run_after(stack: ExitStack, succession: Succession, path: Path, pid_file: Path | None) -> None:
    """Runs what the other daemon runs, once the files have been checked.

    A daemon that is not root must not decide what this process does as root: then the files do.
    """
    helper, found = _loaded(stack, path)
    if succession.as_user:
        require_user(found, succession.uid)
        privileges = stack.enter_context(leave_root(found, pid_file, succeeds=True))
        if privileges.user is None:
            raise StartError(STAYS_ROOT)
    with succession.running() as memory:
        running = upgrade_state.decode(memory.view, Running)
    configuration = upgrade_state.configuration_of(running)
    if not succession.as_user:
        privileges = stack.enter_context(leave_root(configuration, pid_file, succeeds=True))
    elif differing := not_as_before(configuration, found):
        raise StartError(f"{', '.join(differing)}: {RELOAD_FIRST}")
    inheritance = Inheritance(succession, running.places)
    _launch_own(configuration, privileges, helper, inheritance)


def _loaded(stack: ExitStack, path: Path) -> tuple[PrivilegedHelper | None, config.Configuration]:
    """The helper, if there is one, and the configuration of the files.

    Raises ConfigurationError and StartError.
    """
    helper = open_helper(take_started)
    if helper is None:
        configuration = config.load_settled(path)
    else:
        stack.enter_context(helper)
        with refused_as_start_error():
            configuration = helper.load_first(path)
    require_capabilities(managing=bool(by_interface(configuration.virtual_hosts)))
    return helper, configuration


def _launch_own(
    configuration: config.Configuration,
    privileges: Privileges,
    helper: PrivilegedHelper | None,
    inheritance: Inheritance | None = None,
) -> None:
    limits = configuration.daemon.hook_concurrency, configuration.daemon.hook_timeout_s

    def manner(loop: asyncio.AbstractEventLoop) -> Manner:
        return Own(Hooks(loop, *limits, launcher=helper), HostLog(loop.call_later))

    launch(configuration, manner, privileges, helper, inheritance)


def open_helper(begin: Callable[[], Started | None]) -> PrivilegedHelper | None:
    """The privileged helper that `begin` starts, or has started; None: there is to be none.

    Raises StartError.
    """
    with refused_as_start_error():
        started = begin()
    return None if started is None else PrivilegedHelper(started)


@contextmanager
def refused_as_start_error() -> Iterator[None]:
    """Raises StartError in place of HelperError."""
    try:
        yield
    except HelperError as error:
        raise StartError(str(error)) from error


def launch(
    configuration: config.Configuration,
    manner: Callable[[asyncio.AbstractEventLoop], Manner],
    privileges: Privileges,
    helper: PrivilegedHelper | None = None,
    inheritance: Inheritance | None = None,
) -> None:
    """Runs a daemon on its own event loop until it is stopped. Raises StartError.

    `helper`: starts its programs and reads its configuration again; without one it does so itself.
    """
    loop = _event_loop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        systemd = Systemd.from_environment()  # before hooks inherit the environment
        if helper is not None:
            helper.attach(runner.get_loop())
        made = manner(runner.get_loop())
        serving = serve(configuration, made, systemd, privileges, helper, inheritance=inheritance)
        runner.run(serving)


def _event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop. Raises StartError if it could not run for want of descriptors.

    uvloop opens some when it begins to run; where that fails, it cannot be closed any more.
    """
    opened: list[int] = []
    try:
        while len(opened) < LOOP_DESCRIPTORS:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        while opened:
            os.close(opened.pop())
        return uvloop.new_event_loop()
    except OSError as error:
        raise StartError(f"cannot create the event loop: {error.strerror}") from error
    finally:
        for each in opened:
            os.close(each)
