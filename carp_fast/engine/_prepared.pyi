"""Virtual hosts prepared for the engine; times in ns, addresses as 4 or 16 bytes."""

from collections.abc import Iterable, Sequence
from typing import Literal

from typing_extensions import disjoint_base

from carp_fast.engine._vhid import DIALECT_WORDS as DIALECT_WORDS
from carp_fast.engine._vhid import REPLAY_WORDS as REPLAY_WORDS

PEERS_MAX: int
FOREVER_NS: int
LINK_LOCAL: bytes
PREEMPT: dict[bool | str, int]
ADVERTISE_MAC: dict[str, int]
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
        passphrase: bytes,
        advbase: int = 1,
        advskew: int = 0,
        dead_ratio: int = 3,
        preempt: Literal["demoted"] | bool = "demoted",
        unsigned_addresses: Sequence[tuple[bytes, int]] = (),
        retired_addresses: Sequence[tuple[bytes, int]] = (),
        destination: bytes = b"\xe0\x00\x00\x12",
        destination6: bytes = b"\xff\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x12",
        peers: Sequence[bytes] = (),
        source: bytes | None = None,
        source6: bytes | None = None,
        source_missing: bool = False,
        source6_missing: bool = False,
        dialect: str = "ucarp",
        replay: str = "learn",
        lladdr: bytes | None = None,
        preferred: bool = False,
        ignore_link_state: bool = False,
        manage_addresses: bool = True,
        announce_on_order: bool = False,
        startup_delay_ns: int = 0,
        preempt_delay_ns: int = 0,
        announce_count: int = 1,
        announce_interval_ns: int = 0,
        announce_refresh_ns: int = 0,
        address_deadline_ns: int = 10000000000,
        counter: int = 0,
        alternates: bool = False,
        advertise_mac: str | bytes = "interface",
        broadcast: bool = False,
        barred: bool = False,
    ) -> None: ...
