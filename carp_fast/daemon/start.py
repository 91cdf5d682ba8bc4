"""The two steps of a start: one before the pump runs, one after.

Before, leftovers of a crash are removed and the state file is written; after, the engine gets every
interface and virtual host. Must not know how a daemon ends; that is in daemon.
"""

from __future__ import annotations

import errno
import logging
import os

from carp_fast import __version__
from carp_fast.config import load as config
from carp_fast.daemon import present
from carp_fast.daemon.opened import Opened
from carp_fast.daemon.process import StartError
from carp_fast.daemon.receiving import log_chosen
from carp_fast.daemon.table import by_interface
from carp_fast.daemon.traces import Held
from carp_fast.engine._auth import SHA1_FORM
from carp_fast.inet import prefix_text
from carp_fast.net import addresses
from carp_fast.net.interfaces import Interface, absent, read_interfaces, without_marked

logger = logging.getLogger(__name__)

Known = dict[str, Interface]  # interfaces by name
# The kernel's errors if the address to be removed is gone already.
GONE = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})


def take_hosts(opened: Opened, configuration: config.Configuration, held: Held) -> Known:
    """Takes the virtual hosts into the table, removes leftovers of a crash, writes the state file.

    Returns the interfaces of the virtual hosts, absent ones too. Raises StartError, HookError,
    LimitReached and LinkError.
    """
    log_configuration(opened, configuration)
    opened.load_functions(configuration)
    opened.demotions.read()
    opened.maintenance.read()
    hosts = opened.hosts
    for host in configuration.virtual_hosts:
        hosts.take(host)
    recorded = held.read()
    there = read_interfaces()
    for warning in present.warnings(configuration, there, followed=hosts.names):
        logger.warning("%s", warning)
    known = {name: there.get(name) or absent(name) for name in (*hosts.names, *recorded)}
    opened.tracked.start(configuration, there)
    for number, name in enumerate(hosts.names):  # before anything there is removed
        opened.in_use.on_ifindex(number, known[name].ifindex)
    configured = by_interface(configuration.virtual_hosts)
    left = _remove_leftovers(opened, there, known, configured, recorded)
    held.write(configured, left)
    return {name: without_marked(known[name]) for name in hosts.names}


async def add_hosts(opened: Opened, known: Known) -> None:
    """Gives the running pump every interface and virtual host; follows the links from now on.

    Raises StartError.
    """
    for name in opened.hosts.names:
        opened.network.on_interface(known[name])
    await opened.orders.done()
    await opened.orders.give(opened.adder(slot, host) for slot, host in opened.hosts.used())
    opened.network.holding.on_hosts()
    opened.follow(opened.hosts.names)
    try:
        opened.links.start(known)
    except OSError as error:
        raise StartError(f"cannot follow links: {error.strerror}") from error
    opened.tap.start()


def log_configuration(opened: Opened, configuration: config.Configuration) -> None:
    """Logs the version, the paths and the warnings of a configuration."""
    count = len(configuration.virtual_hosts)
    logger.info("carp-fast %s, %d virtual hosts, SHA-1 %s", __version__, count, SHA1_FORM)
    log_chosen(configuration.daemon.receive, (opened.receive.path, opened.receive.reason))
    opened.sending.log()
    for warning in configuration.warnings:
        logger.warning("%s", warning)
    for pattern, matched in configuration.patterns.items():
        if not matched:
            logger.info('include = "%s" matches no file', pattern)


def _remove_leftovers(
    opened: Opened,
    there: Known,
    known: Known,
    configured: dict[str, list[str]],
    recorded: dict[str, list[str]],
) -> dict[str, list[str]]:
    """Addresses that a crash of this configuration's daemon left are removed before BACKUP.

    Those of virtual hosts that another process has now are not touched: they have its mark.
    `there`: every interface that exists; `known`: those of the configuration and the record.
    Returns those that could not be, by interface: they stay ours.
    """
    configured = opened.in_use.ours(configured)
    recorded = opened.in_use.ours(recorded)
    left: list[addresses.Leftover] = list(addresses.leftovers(known.values(), configured, recorded))
    lost = [name for name, interface in known.items() if not interface.ifindex]
    if lost:
        left += addresses.strays(there.values(), lost, configured, recorded)
    left += addresses.leftover_routes(there.values(), lost, configured, recorded)
    if not left:
        return {}
    errors = opened.pump.remove_addresses(
        [(interface.ifindex, address, prefixlen) for interface, address, prefixlen in left]
    )
    failed: dict[str, list[str]] = {}
    for (interface, address, prefixlen), error in zip(left, errors, strict=True):
        if error and error not in GONE:
            what = "address" if prefixlen is not None else "local route"
            text, why = prefix_text(address, prefixlen or 32), os.strerror(error)
            logger.error("%s: leftover %s %s not removed: %s", interface.name, what, text, why)
            failed.setdefault(interface.name, []).append(text)
    removed = len(left) - sum(map(len, failed.values()))
    routes = sum(prefixlen is None for _, _, prefixlen in left)
    those = f", {routes} of them local routes" if routes else ""
    logger.warning("removed %d addresses left by the last run%s", removed, those)
    return failed
