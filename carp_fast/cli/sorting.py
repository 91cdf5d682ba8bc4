"""The orders in which `status` lists virtual hosts: by one of KEYS, then by interface and vhid.

Must not know how virtual hosts are shown, nor where the document comes from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carp_fast.control.documents import VirtualHostStatus

DEFAULT_KEY = "interface"

_STATES = ("INIT", "BACKUP", "MASTER")
_DIGITS = re.compile(r"(\d+)")


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """A key by which "eth2" is before "eth10": numbers in a text are compared as numbers."""
    parts = _DIGITS.split(text)
    return tuple((1, int(part), "") if n % 2 else (0, 0, part) for n, part in enumerate(parts))


def _maybe(text: str | None) -> tuple[bool, tuple[tuple[int, int, str], ...]]:
    """A key by which what has no such text is last."""
    return (not text, natural(text or ""))


def _problems(host: VirtualHostStatus) -> int:
    from carp_fast.daemon.explain_text import problems

    return -len(problems(host))


def _newest(host: VirtualHostStatus) -> float:
    from datetime import datetime

    return -datetime.fromisoformat(host.since).timestamp()


# The first part of each order; those that are equal in it are ordered by interface and vhid.
KEYS: dict[str, Callable[[VirtualHostStatus], Any]] = {
    "interface": lambda host: (),
    "vhid": lambda host: host.vhid,
    "name": lambda host: _maybe(host.name),
    "state": lambda host: _STATES.index(host.state),
    "since": _newest,
    "reason": lambda host: _maybe(host.reason),
    "addresses": lambda host: _maybe(host.addresses[0] if host.addresses else None),
    "advskew": lambda host: host.effective_advskew,
    "demotion": lambda host: -host.demotion.total,
    "peer": lambda host: _maybe(host.peer.source if host.peer else None),
    "segment": lambda host: _maybe(host.segment),
    "problems": _problems,
}


def order(key: str) -> Callable[[VirtualHostStatus], Any]:
    """The sort key of virtual hosts for one of KEYS."""
    first = KEYS[key]
    return lambda host: (first(host), natural(host.interface), host.vhid)


def sorted_json(document: bytes, key: str, path: Path) -> bytes:
    """A status document with its virtual hosts in another order, otherwise as the daemon wrote it.

    Keeps keys that this version does not know. `path`: the control socket, for errors. Raises
    ControlError for a document that does not fit.
    """
    import msgspec

    from carp_fast.control.client import decoded
    from carp_fast.control.documents import VirtualHostStatus

    fields = decoded(document, dict[str, msgspec.Raw], path)
    key_of = order(key)
    hosts = [
        (key_of(decoded(host, VirtualHostStatus, path)), n, host)
        for n, host in enumerate(decoded(fields["virtual_hosts"], list[msgspec.Raw], path))
    ]
    hosts.sort()
    fields["virtual_hosts"] = msgspec.Raw(msgspec.json.encode([host for *_, host in hosts]))
    return msgspec.json.encode(fields)
