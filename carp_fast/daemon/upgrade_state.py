"""The documents that a daemon leaves to its successor, besides the state of its engine.

`Running` is what does not change while a successor prepares: the configuration and the places of
its virtual hosts. `Head` is all the rest that Python knows, at the moment when nothing moves. Both
are encoded with their fields' names: what is missing has a default, what is unknown is refused by
its name. A change of a document within them that is also written to files or sent to clients
(demotions, maintenance) takes another PROTOCOL in upgrade_messages.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from carp_fast.config import image
from carp_fast.config.image import ImageError
from carp_fast.config.model import Configuration
from carp_fast.control.server import PassedOn
from carp_fast.daemon.demotions import Amount
from carp_fast.daemon.in_use import InUseState
from carp_fast.daemon.maintenance import ModeState
from carp_fast.daemon.noted import Noted
from carp_fast.daemon.table import Places, TableState
from carp_fast.daemon.tracked import TrackedState
from carp_fast.daemon.upgrade_messages import UpgradeError
from carp_fast.daemon.upgrades import Upgrades

Document = TypeVar("Document")


class Running(msgspec.Struct, forbid_unknown_fields=True):
    """What runs: the configuration as an image, and the places of its virtual hosts."""

    configuration: bytes
    places: Places


class Head(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What Python knows. Times are of CLOCK_MONOTONIC.

    `still_since_ns`: when it stood still; `engine_bytes`: of the memory HOSTS that are in use;
    `lost`: of LostAddresses; `sources`: the genuine ones; `notify`: lines that wait for that
    program.
    """

    still_since_ns: int = 0
    engine_bytes: int = 0
    started_at_ns: int = 0
    upgrades: Upgrades = msgspec.field(default_factory=Upgrades)
    table: TableState = msgspec.field(default_factory=TableState)
    noted: Noted = msgspec.field(default_factory=Noted)
    lost: list[tuple[int, str, list[float]]] = []
    sources: dict[int, list[bytes]] = {}
    in_use: InUseState = msgspec.field(default_factory=InUseState)
    demotions: dict[str, Amount] = {}
    maintenance: ModeState = msgspec.field(default_factory=ModeState)
    tracks: TrackedState = msgspec.field(default_factory=TrackedState)
    hooks: tuple[int, int, int, int] = (0, 0, 0, 0)
    notify: list[bytes] = []
    receive_fallbacks: int = 0
    control: PassedOn | None = None


def encode(document: Running | Head) -> bytes:
    """The bytes of a document."""
    return msgspec.msgpack.encode(document)


def decode(data: memoryview | bytes, kind: type[Document]) -> Document:
    """A document. Raises UpgradeError, which names a field that is unknown or does not fit."""
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        name = kind.__name__.lower()
        raise UpgradeError(f"this version cannot read what was passed on ({name}): {error}") from (
            error
        )


def running(configuration: Configuration, places: Places) -> Running:
    """The document about what runs. Raises UpgradeError."""
    try:
        return Running(image.encode(configuration), places)
    except ImageError as error:
        raise UpgradeError(str(error)) from error


def configuration_of(document: Running) -> Configuration:
    """The configuration that runs. Raises UpgradeError."""
    try:
        return image.decode(document.configuration)
    except ImageError as error:
        raise UpgradeError(f"this version cannot read what runs: {error}") from error
