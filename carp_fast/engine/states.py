"""What became of a state that an engine took over from another one.

Interface numbers and slots of virtual hosts that are not here are those of the former engine. Must
not know what is done about it.
"""

from __future__ import annotations

import msgspec

from carp_fast.engine.reports import State


class HeldAddress(msgspec.Struct, frozen=True, gc=False):
    """An address that the kernel has for us: 4 or 16 bytes. `routed`: as a local route."""

    ifindex: int
    address: bytes
    prefixlen: int
    routed: bool


class GoneHost(msgspec.Struct, frozen=True):
    """A virtual host that is in the state only, and the addresses that it holds."""

    slot: int
    interface: int
    vhid: int
    state: State
    held: list[HeldAddress]


class Placed(msgspec.Struct, frozen=True):
    """The outcome of Engine.assume_state().

    `hosts`: how many go on; `gone`: those that are not here; `unheld`: (slot, address) of addresses
    that a virtual host held and does not have here; `added`: slots that are here only, and begin
    in INIT; `digests_lost`: former digests that found no room to be accepted for a while.
    """

    hosts: int
    gone: list[GoneHost]
    unheld: list[tuple[int, HeldAddress]]
    added: list[int]
    digests_lost: int
