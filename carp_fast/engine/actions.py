"""The actions that an engine requests: one class for each kind.

Engine.take_actions() returns them in the order in which they must be carried out. Dispatch by
class; `word` is the name of the kind in scenarios and recordings. A slot is the index of a virtual
host in the engine's table; addresses are 4 or 16 bytes, frames whole Ethernet frames. Must not know
how they are carried out.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Action(msgspec.Struct, frozen=True, gc=False):
    """Base class of actions, for the virtual host in `slot`."""

    word: ClassVar[str]
    slot: int


class Advertise(Action, frozen=True, gc=False):
    """Send an advertisement; one action for each family, group and peer."""

    word = "ADVERTISE"
    frame: bytes


class Resign(Action, frozen=True, gc=False):
    """Send the last advertisement of a MASTER that steps down, with advskew 255."""

    word = "RESIGN"
    frame: bytes


class AddAddresses(Action, frozen=True, gc=False):
    """Add these addresses to the interface of the virtual host."""

    word = "ADD_ADDRESSES"
    addresses: list[bytes]


class RemoveAddresses(Action, frozen=True, gc=False):
    """Remove these addresses from the interface of the virtual host."""

    word = "REMOVE_ADDRESSES"
    addresses: list[bytes]


class AddRoutes(AddAddresses, frozen=True, gc=False):
    """Add local routes to these IPv4 addresses on the interface of the virtual host."""

    word = "ADD_ROUTES"


class RemoveRoutes(RemoveAddresses, frozen=True, gc=False):
    """Remove these local routes from the interface of the virtual host."""

    word = "REMOVE_ROUTES"


class Announce(Action, frozen=True, gc=False):
    """Send gratuitous ARP or unsolicited neighbour advertisements, one frame for each address."""

    word = "ANNOUNCE"
    frames: list[bytes]
