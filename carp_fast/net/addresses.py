"""Which addresses are ours: messages that add and remove them, leftovers of a crash, the state
file.

The pump adds and removes addresses; this module prepares the messages and cleans up. An address is
ours when it carries our mark (IFA_PROTO) and this configuration, or the state file of its last run,
names it. Must not know the engine or the control socket.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from carp_fast.config.state import content_of, replace_file, state_name, state_path
from carp_fast.inet import address_bytes, prefix_text
from carp_fast.net.interfaces import (
    OWN_PROTOCOL,
    Interface,
    KernelReader,
    LinkError,
    decode_address,
    messages,
)
from carp_fast.net.kernel import (
    IFA_F_DADFAILED,
    IFA_F_NODAD,
    IFA_F_TENTATIVE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RTM_DELADDR,
    RTM_NEWADDR,
)
from carp_fast.net.structures import structure

logger = logging.getLogger(__name__)

FOREVER_S = 0xFFFF_FFFF
# Arbitrary addresses: their bytes show where in the message an address goes.
PLACEHOLDER, PLACEHOLDER6 = "161.178.195.212", "2001:db8:a1b2:c3d4:e5f6:a7b8:c9da:ebfc"
PREFERRED = "preferred"
MARKS_SINCE = (5, 18)  # the first kernel that keeps IFA_PROTO
FILTERS_SINCE = (4, 20)  # the first kernel that filters a dump of routes
# Errors of a full, read-only or broken disk, which are not faults of the configuration.
DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE))

Leftover = tuple[Interface, bytes, int | None]  # with its prefix length; None: a local route
Templates = dict[tuple[int, bool] | tuple[int, bool, str], tuple[bytes, bytes]]


def templates() -> Templates:
    """One encoded message of each kind: (message, the address in it), by (family, adding).

    An IPv6 address is added as deprecated (preferred_lft 0), so that outgoing traffic keeps the
    host's own; the key (6, True, "preferred") has the message that adds it as a preferred one.
    Raises LinkError if pyroute2 leaves our mark out of the messages.
    """
    addition = [("IFA_PROTO", OWN_PROTOCOL)]
    deprecated = ("IFA_CACHEINFO", {"ifa_preferred": 0, "ifa_valid": FOREVER_S})
    made: Templates = {
        (4, True): _message(4, True, addition),
        (4, False): _message(4, False, []),
        (6, True): _message(6, True, [deprecated, *addition]),
        (6, True, PREFERRED): _message(6, True, addition),
        (6, False): _message(6, False, []),
    }
    for key, (message, _) in made.items():
        if key[1] and not _is_marked(message):
            raise LinkError(
                "pyroute2 leaves our mark (IFA_PROTO) out of the addresses that we add, so after a"
                " crash they would not be recognized; pyroute2 0.9.3 or later is needed"
            )
    return made


def _is_marked(message: bytes) -> bool:
    """Whether an encoded message carries our mark: some versions of pyroute2 drop unknown
    attributes.
    """
    ((_, _, start, end),) = messages(message)
    decoded = decode_address(message, start, end, {0})
    return decoded is not None and decoded[1].protocol == OWN_PROTOCOL


def _message(
    family: int, adding: bool, attributes: Iterable[tuple[str, object]]
) -> tuple[bytes, bytes]:
    address = PLACEHOLDER if family == 4 else PLACEHOLDER6
    message = structure("ifaddrmsg")()
    message["family"] = socket.AF_INET if family == 4 else socket.AF_INET6
    message["prefixlen"] = 32 if family == 4 else 128
    # Without duplicate address detection: a host that takes an address over knows that it is free.
    message["flags"] = IFA_F_NODAD if adding and family == 6 else 0
    # IPv4 sends it twice, since on a point-to-point link IFA_ADDRESS would be the peer's.
    local = [("IFA_LOCAL", address)] if family == 4 else []
    message["attrs"] = [*local, ("IFA_ADDRESS", address), *attributes]
    message["header"]["type"] = RTM_NEWADDR if adding else RTM_DELADDR
    create = NLM_F_CREATE | NLM_F_EXCL if adding else 0
    message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK | create
    message.encode()
    return bytes(message.data), address_bytes(address)


def kernel_keeps_marks() -> bool:
    """Whether addresses keep our mark; before Linux 5.18 only the state file identifies ours."""
    return _kernel_version() >= MARKS_SINCE


def kernel_filters_routes() -> bool:
    """Whether the kernel can dump our local routes alone: otherwise none are used."""
    return _kernel_version() >= FILTERS_SINCE


def _kernel_version() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


class StateFile:
    """The addresses that this configuration may have added, written before the first one is added.

    There is one file for each configuration, see state_path().
    """

    def __init__(self, directory: Path, configuration: Path) -> None:
        self.path = state_path(directory, "addresses", configuration)
        # Where earlier versions kept it: named by the file that the path led to.
        self.former = directory / state_name("addresses", os.path.realpath(configuration))
        self._written: bytes | None = None  # a digest: the content may have 131,072 addresses

    def read(self) -> dict[str, list[str]]:
        """What the last run may have added, by interface; empty if there was none."""
        for path in dict.fromkeys((self.path, self.former)):
            try:
                return self._decoded(path)
            except FileNotFoundError:
                continue
            except (OSError, msgspec.DecodeError) as error:
                logger.warning("state file %s is not usable: %s", path, error)
                return {}
        return {}

    def record(self, addresses: Mapping[str, Iterable[str]]) -> None:
        """Writes as write() does; where a full or read-only disk does no harm, it only logs a
        warning.

        It does no harm if nothing is new, or if the kernel keeps our marks. Raises OSError.
        """
        try:
            self.write(addresses)
        except OSError as error:
            marked = error.errno in DISK_ERRORS and kernel_keeps_marks()
            if not marked and not self.covers(addresses):
                raise
            logger.warning(
                "state file %s: %s: if this run crashes, the next one recognizes its addresses"
                " only by our mark and its own configuration",
                self.path,
                error.strerror,
            )

    def write(self, addresses: Mapping[str, Iterable[str]]) -> None:
        """Replaces the whole file, unless nothing changed. Raises OSError."""
        content = {name: sorted(addresses[name]) for name in sorted(addresses)}
        encoded = msgspec.json.encode(content)
        digest = hashlib.sha256(encoded).digest()
        if self._written is None:
            self._written = self._found()
        if digest == self._written:
            return
        replace_file(self.path, encoded)
        self._written = digest

    def covers(self, addresses: Mapping[str, Iterable[str]]) -> bool:
        """Whether the file names all of these already, and perhaps more."""
        try:
            recorded = self._decoded(self.path)
        except (OSError, msgspec.DecodeError):
            return False
        return all(set(texts) <= set(recorded.get(name, ())) for name, texts in addresses.items())

    def _decoded(self, path: Path) -> dict[str, list[str]]:
        return msgspec.json.decode(content_of(path), type=dict[str, list[str]])

    def _found(self) -> bytes | None:
        """The digest of what the last run wrote."""
        try:
            return hashlib.sha256(content_of(self.path)).digest()
        except OSError:
            return None


def leftovers(
    interfaces: Iterable[Interface],
    configured: Mapping[str, Iterable[str]],
    recorded: Mapping[str, Iterable[str]],
) -> list[tuple[Interface, bytes, int]]:
    """Addresses that a crash of this configuration's daemon left: (interface, address, prefixlen).

    If the kernel keeps marks, only marked addresses count; an address without our mark belongs to
    another program, even if it equals one of ours.
    """
    marks = kernel_keeps_marks()
    found = []
    for interface in interfaces:
        ours = set(recorded.get(interface.name, ()))
        if marks:
            ours.update(configured.get(interface.name, ()))
        for address in interface.addresses:
            if marks and address.protocol != OWN_PROTOCOL:
                continue
            if prefix_text(address.address, address.prefixlen) in ours:
                found.append((interface, address.address, address.prefixlen))
    return found


def strays(
    interfaces: Iterable[Interface],
    lost: Iterable[str],
    configured: Mapping[str, Iterable[str]],
    recorded: Mapping[str, Iterable[str]],
) -> list[tuple[Interface, bytes, int]]:
    """Addresses of interfaces that are `lost`, found on others: as after a crash and a renaming.

    Only addresses with our mark, and never link-local ones: another daemon of this host may have
    added those on an interface of its own.
    """
    ours = {text for name in lost for of in (configured, recorded) for text in of.get(name, ())}
    return [
        (interface, address.address, address.prefixlen)
        for interface in interfaces
        for address in interface.addresses
        if address.protocol == OWN_PROTOCOL
        and address.scope == RT_SCOPE_UNIVERSE
        and prefix_text(address.address, address.prefixlen) in ours
    ]


def leftover_routes(
    interfaces: Iterable[Interface],
    lost: Iterable[str],
    configured: Mapping[str, Iterable[str]],
    recorded: Mapping[str, Iterable[str]],
) -> list[Leftover]:
    """Local routes with our mark that a crash of this configuration's daemon left.

    Those of interfaces that are `lost` may be on others, as strays() has it. Raises LinkError.
    """
    if not kernel_filters_routes():
        return []
    with KernelReader() as kernel:
        routes = kernel.local_routes()
    if not routes:
        return []
    by_ifindex = {interface.ifindex: interface for interface in interfaces}
    ours: dict[str, set[bytes]] = {}
    for of in (configured, recorded):
        for name, texts in of.items():
            bare = {address_bytes(text.partition("/")[0]) for text in texts}
            ours.setdefault(name, set()).update(bare)
    strayed = {address for name in lost for address in ours.get(name, ())}
    return [
        (interface, address, None)
        for ifindex, address in routes
        if (interface := by_ifindex.get(ifindex)) is not None
        and (address in ours.get(interface.name, ()) or address in strayed)
    ]


def find_source(interface: Interface, virtual: set[bytes]) -> bytes | None:
    """The interface's first global IPv4 address that is not virtual; None if it has none."""
    for address in interface.addresses:
        if (
            address.family == 4
            and address.scope == RT_SCOPE_UNIVERSE
            and address.protocol != OWN_PROTOCOL
            and address.address not in virtual
        ):
            return address.address
    return None


def find_source6(interface: Interface, virtual: set[bytes]) -> bytes | None:
    """The first usable link-local IPv6 address that is not virtual; None if there is none."""
    for address in interface.addresses:
        if (
            address.family == 6
            and address.scope == RT_SCOPE_LINK
            and address.protocol != OWN_PROTOCOL
            and not address.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED)
            and address.address not in virtual
        ):
            return address.address
    return None
