"""`carp-fast ucarp`, `carp-fast-ucarp`, and the program under any name that ends in ucarp.

From the command line to a running daemon: reads the options, hides the password, opens the log,
goes into the background if requested. Must not import what is not needed for that: the daemon is
imported last, click and rich not at all.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from carp_fast import __version__
from carp_fast.config.model import Settings, VirtualHost
from carp_fast.config.secrets import overwrite
from carp_fast.daemon.process import forbid_tracing
from carp_fast.engine._auth import Passphrase
from carp_fast.standard import discard_output
from carp_fast.ucarp.log import logger, start_logging
from carp_fast.ucarp.options import (
    FACILITIES,
    Options,
    SettingsError,
    UsageError,
    check,
    exposures,
    parse,
    split,
    summary,
    without_password,
)
from carp_fast.ucarp.process import Waiting, detach, rename

PROGRAM = "ucarp"
DONE, WRONG_USAGE, NOT_STARTED = 0, 2, 2  # a SettingsError has its own, mostly 1
NO_MAC = "00:00:00:00:00:00"


def main(called: Sequence[str], arguments: Sequence[str]) -> int:
    """Runs as ucarp; returns the exit code. `called`: the words that name the program."""
    program = " ".join([Path(called[0]).name, *called[1:]])
    _hide_password(called, arguments)
    options = Options()
    try:
        parse(arguments, options)
    except UsageError as error:
        print(f"{program}: {error}; see {program} --help", file=sys.stderr)
        return WRONG_USAGE
    except SettingsError as error:
        _start_logging(options)
        logger.error("%s", error)
        return error.exit_code
    if options.help or not arguments:
        try:
            print(summary(program, __version__), flush=True)
        except BrokenPipeError:
            discard_output()
        return DONE
    return _run(options)


def _start_logging(options: Options, *, standard: bool = True) -> None:
    """Sets up the log, and logs what was wrong with the requested facility."""
    facility = None if options.facility == "none" else FACILITIES[options.facility]
    start_logging(facility=facility, debug=options.debug, standard=standard)
    while options.faults:
        logger.error("%s", options.faults.pop(0))


def _hide_password(called: Sequence[str], arguments: Sequence[str]) -> None:
    """Sets the process's name for ps, killall and pidof, and hides passwords in its arguments."""
    shown = list(arguments)
    try:
        given = [value for name, value in split(arguments) if name == "pass"]
    except UsageError:
        given = []
    for password in given:
        shown = without_password(shown, password)
    rename(PROGRAM, [*(called if len(called) == 1 else [PROGRAM]), *shown])
    forbid_tracing()


def _run(options: Options) -> int:
    _start_logging(options)
    try:
        _find_interface(options)
        check(options)
    except SettingsError as error:
        _warn(options)
        logger.error("%s", error)
        return error.exit_code
    _warn(options)
    if options.password.endswith(b"\r"):
        text = "the password ends in a carriage return, as in a file with Windows line ends"
        logger.warning("%s", text)
    waiting = Waiting()
    if options.daemonize:
        waiting = detach(lambda text: print(f"{PROGRAM}: {text}", file=sys.stderr))
        _start_logging(options, standard=False)
    return _run_daemon(options, waiting)


def _run_daemon(options: Options, waiting: Waiting) -> int:
    from carp_fast.daemon.process import StartError
    from carp_fast.ucarp.manner import run

    host = virtual_host(options)
    if isinstance(options.password, bytearray):  # from a file; others are in the arguments anyway
        overwrite(options.password)
    try:
        return run(
            host,
            named=options.interface,
            neutral=options.neutral,
            shutdown=options.shutdown,
            started=waiting.started,
        )
    except StartError as error:
        logger.error("%s", error)
        waiting.failed(str(error))
        return NOT_STARTED
    except Exception as error:  # in the background it would go unnoticed otherwise
        logger.exception("ended by an error")
        waiting.failed(repr(error))
        return NOT_STARTED


def _find_interface(options: Options) -> None:
    """Selects the first interface that is up, except the loopback, if none was named."""
    if options.interface:
        return
    from carp_fast.daemon.plan import interface_facts

    for _, name in sorted(socket.if_nameindex()):
        facts = interface_facts(name)
        if facts is not None and facts.up and facts.mac != NO_MAC:
            options.interface = name
            logger.info("Using [%s] as a network interface", name)
            return


def _warn(options: Options) -> None:
    for note in (*options.notes, *exposures(options)):
        logger.warning("%s", note)


def virtual_host(options: Options) -> VirtualHost:
    """The virtual host of a checked command line, as a configuration would have it.

    An alias such as eth0:1 stands for its interface.
    """
    settings = Settings(
        passphrase=Passphrase(options.password),
        source=options.srcip,
        advbase=options.advbase,
        advskew=options.advskew,
        dead_ratio=options.deadratio,
        preempt=options.preempt,
        destination=options.mcastip,
        broadcast=options.nomcast,
        advertise_mac="ucarp",
        replay="off",  # ucarp enforces no order of counters
        ignore_link_state=options.ignoreifstate,
        manage_addresses=False,
        up=options.upscript or None,
        down=options.downscript or None,
        xparam=options.xparam,
    )
    interface = options.interface.partition(":")[0]
    return VirtualHost(interface, options.vhid, (f"{options.addr}/32",), (), settings)
