"""Virtual hosts prepared for the engine. Times are in ns, addresses 4 or 16 bytes."""

from collections.abc import Iterable, Sequence
from typing import Any

from typing_extensions import disjoint_base

from carp_fast.engine._auth import Passphrase
from carp_fast.engine.keys import ALL_KEYS as ALL_KEYS
from carp_fast.engine.keys import DIALECTS as DIALECTS

PEERS_MAX: int
FOREVER_NS: int
LINK_LOCAL: bytes
NEVER_SIGNED: set[bytes]

def multicast_mac(group: bytes) -> bytes: ...
def signed_message(
    vhid: int,
    addresses: Iterable[bytes],
    *,
    lladdr: bytes | None = None,
    link_local: bool = True,
) -> bytes: ...
def automatic_link_local(mac: bytes) -> bytes: ...
def signed_forms(
    vhid: int, addresses: Iterable[bytes], *, dialect: str, lladdr: bytes | None = None
) -> list[tuple[str, bytes]]: ...

@disjoint_base
class PreparedHost:
    def __init__(
        self,
        *,
        interface: int,
        vhid: int,
        addresses: Sequence[tuple[bytes, int]],
        passphrase: bytes | Passphrase,
        unsigned_addresses: Sequence[tuple[bytes, int]] = (),
        retired_addresses: Sequence[tuple[bytes, int]] = (),
        destination: bytes = b"\xe0\x00\x00\x12",
        destination6: bytes = b"\xff\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x12",
        peers: Sequence[bytes] = (),
        source: bytes | None = None,
        source6: bytes | None = None,
        lladdr: bytes | None = None,
        counter: int = 0,
        alternates: bool = False,
        broadcast: bool = False,
        barred: bool = False,
        group: int = 0,
        group_all: bool = False,
        withheld: bool = False,
        **keys: Any,
    ) -> None: ...
    @property
    def configured(self) -> dict[str, int]: ...
