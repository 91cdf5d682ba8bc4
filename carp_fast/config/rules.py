"""The rules that check and convert the value of each key of a configuration.

A rule converts a value from TOML to its type or raises Refused with what is wrong and what is
allowed. Keys that are not supported yet are refused by name. Must not know files, TOML, ranges, or
where a table stands.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from carp_fast import inet
from carp_fast.config import accounts
from carp_fast.config.model import (
    PEERS_MAX,
    RECORD_MAX,
    AnnounceRate,
    ControlGroup,
    MetricsAddress,
    User,
    as_key,
    as_shown,
    nearest_to,
)
from carp_fast.config.tracks import KINDS, WORDS_MAX
from carp_fast.engine.keys import KEYS, MAX_DELAY_S, Kind, OneOf, Seconds, Switch, Whole
from carp_fast.errors import CarpFastError
from carp_fast.inet import address_text

INTERFACE_NAME_BYTES = 15  # the kernel's IFNAMSIZ less its NUL
SOCKET_PATH_BYTES = 107  # sun_path less its NUL
PORT_MAX = 65_535


class Refused(CarpFastError):
    """Raised when a value is refused; the text has the reason and what is allowed, not the key."""


Rule = Callable[[Any], Any]


def _typed(kind: Any, allowed: str) -> Rule:
    def rule(value: Any) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError:
            raise Refused(f"must be {allowed}") from None

    return rule


def _integer(lowest: int, highest: int) -> Rule:
    kind = Annotated[int, Meta(ge=lowest, le=highest)]
    return _typed(kind, f"an integer from {lowest} to {highest}")


def _seconds(lowest: float, highest: float) -> Rule:
    kind = Annotated[float, Meta(ge=lowest, le=highest)]
    return _typed(kind, f"a number of seconds from {lowest:g} to {highest:g}")


def _choice(*allowed: str | bool) -> Rule:
    words = " or ".join(f'"{word}"' for word in allowed if isinstance(word, str))
    if True in allowed:
        words = f"true, false or {words}"

    def rule(value: Any) -> Any:
        if not isinstance(value, str | bool) or value not in allowed:
            raise Refused(f"must be {words}")
        return value

    return rule


def _not_available(neutral: Any = None) -> Rule:
    """The rule of a key that is not supported yet: only its default, which does nothing, passes."""
    allowed = "leave the key out"
    if neutral is not None:
        allowed = f"{as_shown(neutral)}, or {allowed}"

    def rule(value: Any) -> None:
        if neutral is None or type(value) is not type(neutral) or value != neutral:
            raise Refused(f"not available in this version; allowed: {allowed}")

    return rule


_boolean = _typed(bool, "true or false")


def _rule(kind: Kind) -> Rule:
    """The rule of a key that the engine reads."""
    match kind:
        case Whole(lowest, highest):
            return _integer(lowest, highest)
        case Seconds(lowest, highest):
            return _seconds(lowest, highest)
        case OneOf(values):
            return _choice(*values)
        case Switch():
            return _boolean


def plain_text(value: Any, allowed: str = "a string") -> str:
    if not isinstance(value, str):
        raise Refused(f"must be {allowed}")
    if "\0" in value:
        raise Refused(f"holds a NUL character; must be {allowed}")
    return value


def _absolute_path(value: Any, allowed: str = "an absolute path") -> str:
    if not plain_text(value, allowed).startswith("/"):
        raise Refused(f"must be {allowed}")
    return str(value)


def _path(value: Any) -> Path:
    return Path(_absolute_path(value))


def _socket_path(value: Any) -> Path:
    path = _path(value)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise Refused(f"is too long; allowed: at most {SOCKET_PATH_BYTES} bytes")
    return path


def _metrics(value: Any) -> MetricsAddress:
    """An address with a port, or the path of a Unix socket."""
    allowed = 'an address and port such as "127.0.0.1:9112" or "[::1]:9112", or an absolute path'
    text = plain_text(value, allowed)
    if text.startswith("/"):
        return MetricsAddress(path=_socket_path(text))
    found = re.fullmatch(r"(?:\[(?P<six>[^\]]*)\]|(?P<four>[^:\[\]]*)):(?P<port>[0-9]{1,5})", text)
    if found is None or not 1 <= int(found["port"]) <= PORT_MAX:
        raise Refused(f"must be {allowed}, with a port from 1 to {PORT_MAX}")
    six, four = found["six"], found["four"]
    try:
        address = inet.address_bytes(four if six is None else six)
    except ValueError:
        raise Refused(f"is not an address of its family; must be {allowed}") from None
    if len(address) != (4 if six is None else 16):
        raise Refused(f"has an IPv6 address in brackets only; must be {allowed}")
    return MetricsAddress(address_text(address), int(found["port"]))


ID_MAX = 2**32 - 2  # the highest number is the kernel's "no group", and "no user"


def _control_group(value: Any) -> ControlGroup:
    """A group of this host; "": none, also where the usual one exists."""
    allowed = 'the name or the number of a group, or "" for none'
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= ID_MAX:
            raise Refused(f"must be {allowed}, from 0 to {ID_MAX}")
        group = ControlGroup(accounts.group_name(value) or str(value), value)
    elif plain_text(value, allowed) == "":
        return ControlGroup("", None)
    else:
        number = accounts.group_number(value)
        if number is None:
            known = accounts.group_names()
            nearest = f"; the nearest one is {as_shown(nearest_to(value, known))}" if known else ""
            raise Refused(f"is not a group of this host{nearest}; allowed: {allowed}")
        group = ControlGroup(value, number)
    if group.gid == accounts.overflow("gid"):
        text = "is the group of all processes whose groups this user namespace does not know"
        raise Refused(f"{text}; allowed: another group")
    return group


def _user(value: Any) -> User:
    """A user of this host; root: the daemon stays root."""
    allowed = "the name or the number of a user"
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= ID_MAX:
            raise Refused(f"must be {allowed}, from 0 to {ID_MAX}")
        known = accounts.user_numbered(value)
    else:
        known = accounts.user_named(plain_text(value, allowed))
    if known is None:
        names = [] if isinstance(value, int) else accounts.user_names()
        nearest = f"; the nearest one is {as_shown(nearest_to(value, names))}" if names else ""
        raise Refused(f"is not a user of this host{nearest}; allowed: {allowed}")
    if known.pw_uid == accounts.overflow("uid"):
        text = "is the user of all processes whose users this user namespace does not know"
        raise Refused(f"{text}; allowed: another user")
    return User(known.pw_name, known.pw_uid, known.pw_gid)


def _hook(value: Any) -> str:
    allowed = 'an absolute path or "module:function"'
    module, colon, function = plain_text(value, allowed).partition(":")
    if colon and "/" not in value:
        if all(part.isidentifier() for part in (*module.split("."), *function.split("."))):
            return str(value)
        raise Refused(f"must be {allowed}")
    return _absolute_path(value, allowed)


# --- addresses ----------------------------------------------------------------------------------


# 0.0.0.0/8: this network; 127.0.0.0/8: loopback; from 224.0.0.0: groups, reserved, broadcast.
THIS_NETWORK4, LOOPBACK4, MULTICAST4 = 0, 127, 224
LOOPBACK6 = bytes(15) + b"\1"  # only :: is lower
MAPPED6 = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, IPv4-mapped addresses
LOOPBACK_INTERFACE = "lo"
POINT_TO_POINT4 = 31  # from this prefix length on, hosts may have any address (RFC 3021)


def _holds_ipv4(address: bytes) -> bool:
    return address[0] not in (THIS_NETWORK4, LOOPBACK4) and address[0] < MULTICAST4


def _holds_ipv6(address: bytes) -> bool:
    return address > LOOPBACK6 and address[0] != 0xFF and address[:12] != MAPPED6


class Family(NamedTuple):
    """An address family: its form in text, and which addresses a virtual host may hold.

    `may_hold` is true for an address of `size` bytes that a virtual host may hold.
    """

    size: int  # bytes
    highest: str
    example: str
    may_hold: Callable[[bytes], bool]
    not_held: str

    def text(self, value: int) -> str:
        """The address with the number `value`, in the form of inet_ntop. Raises Refused."""
        try:
            address = value.to_bytes(self.size)
        except OverflowError:
            text = f"goes beyond {self.highest}; allowed: a lower ADDRESS or range"
            raise Refused(text) from None
        text = address_text(address)
        if not self.may_hold(address):
            raise Refused(f"{text} {self.not_held}")
        return text


FAMILIES = {
    4: Family(
        4,
        "255.255.255.255",
        "192.0.2.10/24",
        _holds_ipv4,
        "is not an address of a host; allowed: any but 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4 and"
        " 240.0.0.0/4",
    ),
    6: Family(
        16,
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db8::10/64",
        _holds_ipv6,
        "is not an address of a host; allowed: any but ::, ::1, ff00::/8 and ::ffff:0:0/96",
    ),
}


def address_bytes(value: Any, allowed: str) -> bytes:
    """The 4 or 16 bytes of an address without prefix length. Raises Refused."""
    text = plain_text(value, allowed)
    if ":" in text and "%" in text:
        raise Refused(f"has a scope id, but the interface is the scope; must be {allowed}")
    try:
        return inet.address_bytes(text)
    except ValueError:
        raise Refused(f"is not an IPv4 or IPv6 address; must be {allowed}") from None


def host_bits(family: Family, prefixlen: int) -> int:
    """The host bits of an IPv4 prefix, which may not be all 0 or all 1; 0 if they may."""
    return (1 << 32 - prefixlen) - 1 if family.size == 4 and prefixlen < POINT_TO_POINT4 else 0


def check_host_bits(value: int, bits: int) -> None:
    """Raises Refused for the network or the broadcast address of a prefix, see host_bits()."""
    if bits and value & bits in (0, bits):
        which = "broadcast" if value & bits else "network"
        first, last = ((value & ~bits) + 1).to_bytes(4), ((value | bits) - 1).to_bytes(4)
        raise Refused(
            f"is the {which} address of its prefix; allowed: an address from"
            f" {address_text(first)} to {address_text(last)}, or the prefix length 31 or 32"
        )


def _is_unicast(address: bytes) -> bool:
    return _holds_ipv4(address) if len(address) == 4 else _holds_ipv6(address)


def _host_address(value: Any, allowed: str) -> bytes:
    address = address_bytes(value, allowed)
    if not _is_unicast(address):
        raise Refused(f"is not the address of a host; must be {allowed}")
    return address


def _sources(value: Any) -> tuple[str | None, str | None]:
    """(IPv4, IPv6): the values of `source` and `source6` in Settings."""
    allowed = "an address of a host, without prefix, or a list of one for each family"
    found: dict[int, str] = {}
    for item in value if isinstance(value, list) else [value]:
        address = _host_address(item, allowed)
        if len(address) in found:
            raise Refused(f"has two of one family; must be {allowed}")
        found[len(address)] = address_text(address)
    return found.get(4), found.get(16)


def _destination(value: Any) -> str:
    allowed = "an IPv4 multicast group (224.0.0.0/4)"
    address = address_bytes(value, allowed)
    if len(address) != 4:
        raise Refused(f"is IPv6, as destination6 is; must be {allowed}")
    if address[0] >> 4 != 0xE:
        raise Refused(f"is not multicast; must be {allowed}")
    return address_text(address)


def _destination6(value: Any) -> str:
    allowed = 'an IPv6 multicast group (ff00::/8), preferably link-local: "ff02::12"'
    address = address_bytes(value, allowed)
    if len(address) != 16:
        raise Refused(f"is IPv4, as destination is; must be {allowed}")
    if address[0] != 0xFF:
        raise Refused(f"is not multicast; must be {allowed}")
    if address[1] & 0xF < 2:
        raise Refused(f"has a scope that never leaves the host; must be {allowed}")
    return address_text(address)


def _peers(value: Any) -> tuple[str, ...]:
    allowed = f"a list of at most {PEERS_MAX} addresses of other hosts, without prefix"
    if not isinstance(value, list):
        raise Refused(f"must be {allowed}")
    if len(value) > PEERS_MAX:
        raise Refused(f"has {len(value)} items; must be {allowed} (PEERS_MAX)")
    found: list[bytes] = []
    for item in value:
        try:
            address = _host_address(item, allowed)
        except Refused as refused:
            raise Refused(f"{as_shown(item)} {refused}") from None
        if address in found:
            raise Refused(f"holds {address_text(address)} twice; must be {allowed}")
        found.append(address)
    return tuple(map(address_text, sorted(found, key=lambda each: (len(each), each))))


def _lladdr(value: Any) -> str:
    allowed = 'the MAC of a host such as "02:00:00:00:00:01"'
    text = plain_text(value, allowed).lower()
    try:
        mac = inet.mac_bytes(text)
    except ValueError:
        raise Refused(f"must be {allowed}") from None
    if mac[0] & 1 or not any(mac):
        raise Refused(f"is not the MAC of a host; must be {allowed}")
    return text


ANNOUNCEMENTS_MAX = 1_000_000  # a second
ANNOUNCE_RATES = {
    "interface": _integer(1, ANNOUNCEMENTS_MAX),
    "at_once": _integer(1, ANNOUNCEMENTS_MAX),
    "all": _integer(0, ANNOUNCEMENTS_MAX),
}


def _announce_rate(value: Any) -> AnnounceRate:
    """A number is that of each interface; less at once than usual follows from less a second."""
    usual = AnnounceRate()
    if not isinstance(value, dict):
        try:
            value = {"interface": ANNOUNCE_RATES["interface"](value)}
        except Refused:
            words = f"{', '.join(ANNOUNCE_RATES)} in a table"
            text = f"must be an integer from 1 to {ANNOUNCEMENTS_MAX}, or {words}"
            raise Refused(text) from None
    found: dict[str, int] = {}
    for key, item in value.items():
        if key not in ANNOUNCE_RATES:
            raise Refused(f"{as_key(key)}: unknown; allowed: {', '.join(ANNOUNCE_RATES)}")
        try:
            found[key] = ANNOUNCE_RATES[key](item)
        except Refused as refused:
            raise Refused(f"{key} = {as_shown(item)} {refused}") from None
    found.setdefault("at_once", min(usual.at_once, found.get("interface", usual.interface)))
    return AnnounceRate(**found)


# --- names and what is tracked ------------------------------------------------------------------

NAME_LENGTH_MAX = 64  # characters of the name of a track, group, virtual host or segment
DESCRIPTION_LENGTH_MAX = 200


def _name(value: Any) -> str:
    return printable(value, NAME_LENGTH_MAX)


def printable(value: Any, most: int) -> str:
    """A text of 1 to `most` printable characters. Raises Refused."""
    allowed = f"1 to {most} printable characters"
    text = plain_text(value, allowed)
    if not text.strip() or len(text) > most or not text.isprintable():
        raise Refused(f"must be {allowed}")
    return text


def _group(value: Any) -> str:
    """The name of a group; "": of none, where [defaults] name one."""
    return "" if value == "" else _name(value)


def _names(value: Any) -> tuple[str, ...]:
    allowed = 'a list of names of tracks, such as ["uplink"]'
    if not isinstance(value, list):
        raise Refused(f"must be {allowed}")
    for item in value:
        plain_text(item, allowed)
    if len(set(value)) < len(value):
        raise Refused(f"has a name twice; must be {allowed}")
    return tuple(value)


def _interface_name(value: Any) -> str:
    """The name of one interface. Raises Refused."""
    allowed = f'the name of an interface such as "eth0", at most {INTERFACE_NAME_BYTES} bytes'
    text = plain_text(value, allowed)
    too_long = len(text.encode("utf-8", "replace")) > INTERFACE_NAME_BYTES
    if too_long or not text or text in (".", "..") or re.search(r"[\s/:]", text):
        raise Refused(f"must be {allowed}")
    return text


def _script(value: Any) -> tuple[str, ...]:
    allowed = f"an absolute path, or a list of one and its arguments, {WORDS_MAX} at most"
    words = value if isinstance(value, list) else [value]
    if not 1 <= len(words) <= WORDS_MAX:
        raise Refused(f"must be {allowed}")
    _absolute_path(words[0], allowed)
    return tuple(plain_text(word, allowed) for word in words)


def _of_host(value: Any) -> str:
    """The address of a host; one of this machine, such as 127.0.0.1, is one, too."""
    allowed = "the address of a host, without prefix"
    address = address_bytes(value, allowed)
    if not any(address) or address[0] == 0xFF or (len(address) == 4 and address[0] >= MULTICAST4):
        raise Refused(f"is not the address of a host; must be {allowed}")
    return address_text(address)


_delay = _seconds(0, MAX_DELAY_S)
_PROBED: dict[str, Rule] = {
    "interval_s": _seconds(0.1, MAX_DELAY_S),
    "timeout_s": _seconds(0.05, MAX_DELAY_S),
    "rise": _integer(1, 255),
    "fall": _integer(1, 255),
}
_REACHABLE: dict[str, Rule] = {
    "target": _of_host,
    "source": _of_host,
    "interface": _interface_name,
    **_PROBED,
}
TRACK_RULES: dict[str, Rule] = {  # of every kind
    "name": _name,
    "kind": _choice(*KINDS),
    "demotion": _integer(1, 255),
    "initial": _choice("failed", "ok"),
}
GROUP_RULES: dict[str, Rule] = {"name": _name, "demote_when": _choice("any", "all")}
KIND_RULES: dict[str, dict[str, Rule]] = {
    "interface": {
        "interface": _interface_name,
        "needs": _choice("link", "carrier", "address"),
        "rise_s": _delay,
        "fall_s": _delay,
    },
    "process": {
        "executable": _absolute_path,
        "pid_file": _absolute_path,
        "rise_s": _delay,
        "fall_s": _delay,
    },
    "file": {"path": _absolute_path},
    "script": {"script": _script, **_PROBED},
    "ping": _REACHABLE,
    "tcp": {**_REACHABLE, "port": _integer(1, PORT_MAX)},
}

# --- the keys -----------------------------------------------------------------------------------

ANNOUNCE_RULES = {key.name: _rule(key.kind) for key in KEYS if key.table == "announce"}

SETTING_RULES: dict[str, Rule] = {
    **{key.name: _rule(key.kind) for key in KEYS if not key.table},
    "source": _sources,
    "destination": _destination,
    "destination6": _destination6,
    "broadcast": _boolean,
    "peers": _peers,
    "hold": _choice("address", "route", "auto"),
    "address_mac": _not_available("interface"),
    "lladdr": _lladdr,
    "group": _group,
    "track": _names,
    "up": _hook,
    "down": _hook,
    "xparam": plain_text,
}
ADDRESSES_ALLOWED = 'an address such as "192.0.2.10/24" or "2001:db8::10/64", or a list of them'
HOST_KEYS = {  # to the text of what is allowed
    "interface": 'a name such as "eth0", a range such as "vlan[100-163]", or a list of them',
    "vhid": 'an integer from 1 to 255, a range such as "1,3,5-9", or a list of them',
    "addresses": ADDRESSES_ALLOWED,
    "unsigned_addresses": ADDRESSES_ALLOWED,
}
ADDRESS_KEYS = ("addresses", "unsigned_addresses")
LABEL_KEYS = {  # to the characters that one may have
    "name": NAME_LENGTH_MAX,
    "description": DESCRIPTION_LENGTH_MAX,
    "segment": NAME_LENGTH_MAX,
}
PASSPHRASE_KEYS = ("passphrase", "passphrase_file", "passphrase_credential")
OTHER_KEYS = (*HOST_KEYS, *LABEL_KEYS, *PASSPHRASE_KEYS, "announce")
TABLE_KEYS = (*SETTING_RULES, *OTHER_KEYS)

DAEMON_RULES: dict[str, Rule] = {
    "control_socket": _socket_path,
    "control_group": _control_group,
    "user": _user,
    "state_directory": _path,
    "receive": _choice("auto", "packet", "ring", "raw", "tcx"),
    "send": _choice("auto", "packet", "clones"),
    "pump": _choice("thread", "loop"),
    "announce_rate": _announce_rate,
    "notify": _absolute_path,
    "hook_concurrency": _integer(1, 1024),
    "hook_timeout_s": _seconds(0.01, MAX_DELAY_S),
    "digest_grace_s": _seconds(0, MAX_DELAY_S),
    "maintenance_rate": _integer(1, 100_000),
    "record": _integer(0, RECORD_MAX),
    "secret_key_file": plain_text,
    "track_concurrency": _integer(1, 1024),
    "metrics": _metrics,
    "metrics_detail": _choice("interface", "exceptional", "full"),
    "metrics_public": _boolean,
    "metrics_page": _boolean,
}
TABLES = ("include", "daemon", "defaults", "virtual_host", "group", "track")
ARRAYS = ("virtual_host", "group", "track")  # may be in included files
