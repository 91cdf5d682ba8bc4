"""The keys of a virtual host that the engine reads, one row each; all other code uses this table.

A row is a field of Keys, or of the table Announce in it: its name, type, kind and default. The
kind defines the allowed values, and the number of each in the engine. The rows define the rules of
the configuration, the keys that PreparedHost takes and the fields of Configured
(src/carp_fast/engine/_vhid.pxd) that it fills, the keys of a scenario, and the settings in a
recording. Must not know anything else of the project.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

import msgspec

MAX_DELAY_S = 86_400
NS_A_SECOND, NS_A_MS = 1_000_000_000, 1_000_000


class Whole(NamedTuple):
    """A whole number, the same in the engine."""

    lowest: int
    highest: int


class Switch(NamedTuple):
    """True or false; 1 or 0 in the engine."""


class Seconds(NamedTuple):
    """A duration: seconds in a configuration, ns to PreparedHost, whole ms in the engine."""

    lowest: float
    highest: float


class OneOf(NamedTuple):
    """One of `values`; in the engine its index, so their order is that of the engine's enum."""

    values: tuple[str | bool, ...]


Kind = Whole | Switch | Seconds | OneOf
DIALECTS = OneOf(("ucarp", "freebsd", "openbsd"))
REPLAYS = OneOf(("off", "learn", "strict"))


class Announce(msgspec.Struct, frozen=True, gc=False):
    """Gratuitous ARPs: `count` at once `interval_s` apart, again each `refresh_s` (0: never)."""

    count: Annotated[int, Whole(1, 10)] = 1
    interval_s: Annotated[float, Seconds(0, 60)] = 0.0
    refresh_s: Annotated[float, Seconds(0, 3600)] = 0.0


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The table of keys: each field is a key of a virtual host in the configuration."""

    advbase: Annotated[int, Whole(0, 255)] = 1
    advskew: Annotated[int, Whole(0, 254)] = 0
    dead_ratio: Annotated[int, Whole(1, 255)] = 3
    preempt: Annotated[Literal["demoted"] | bool, OneOf((False, True, "demoted"))] = "demoted"
    preempt_delay_s: Annotated[float, Seconds(0, MAX_DELAY_S)] = 0.0
    startup_delay_s: Annotated[float, Seconds(0, MAX_DELAY_S)] = 0.0
    dialect: Annotated[Literal["ucarp", "freebsd", "openbsd"], DIALECTS] = "ucarp"
    advertise_mac: Annotated[str, OneOf(("interface", "ucarp", "bsd"))] = "interface"
    replay: Annotated[Literal["off", "learn", "strict"], REPLAYS] = "learn"
    preferred: Annotated[bool, Switch()] = False
    ignore_link_state: Annotated[bool, Switch()] = False
    manage_addresses: Annotated[bool, Switch()] = True
    address_deadline_s: Annotated[float, Seconds(0, MAX_DELAY_S)] = 10.0  # 0: never
    announce: Announce = Announce()


class Key(NamedTuple):
    """A row of the table. The key of a nested table has a dotted name: "announce.count"."""

    name: str
    kind: Kind
    default: Any
    table: str  # name of the nested table, or ""
    argument: str  # name of PreparedHost's argument
    field: str  # name of Configured's field

    def of(self, settings: Keys) -> Any:
        """The value in the settings of a configuration."""
        value: Any = settings
        for part in self.name.split("."):
            value = getattr(value, part)
        return value

    def found_in(self, table: Mapping[str, Any]) -> Any:
        """The value in a table parsed from TOML, or the default."""
        *within, last = self.name.split(".")
        for part in within:
            table = table.get(part, {})
        return table.get(last, self.default)

    def put_into(self, table: dict[str, Any], value: Any) -> None:
        """Stores a value where found_in() finds it."""
        *within, last = self.name.split(".")
        for part in within:
            table = table.setdefault(part, {})
        table[last] = value

    def given(self, value: Any) -> Any:
        """A value in the form that PreparedHost takes."""
        return round(value * NS_A_SECOND) if isinstance(self.kind, Seconds) else value

    def number(self, given: Any) -> int:
        """The engine's number for a value given to PreparedHost. Raises ValueError."""
        if isinstance(self.kind, OneOf):
            return self.kind.values.index(given)
        if isinstance(self.kind, Seconds):
            return -(-int(given) // NS_A_MS)  # rounded up: a wait is never shorter than configured
        return int(given)

    def value(self, number: int) -> Any:
        """The configured value for a number of the engine: reverses given() and number()."""
        if isinstance(self.kind, OneOf):
            return self.kind.values[number]
        if isinstance(self.kind, Seconds):
            return number * NS_A_MS / NS_A_SECOND
        return bool(number) if isinstance(self.kind, Switch) else number


def _key(name: str, kind: Kind, default: Any) -> Key:
    given, engines = ("_ns", "_ms") if isinstance(kind, Seconds) else ("", "")
    word = name.replace(".", "_").removesuffix("_s" if given else "")
    return Key(name, kind, default, name.rpartition(".")[0], word + given, word + engines)


def _rows(table: type[msgspec.Struct], within: str = "") -> Iterator[Key]:
    hints = get_type_hints(table, include_extras=True)
    for field in msgspec.structs.fields(table):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from _rows(hint, f"{field.name}.")
        else:
            yield _key(within + field.name, get_args(hint)[1], field.default)


KEYS = tuple(_rows(Keys))
# Determined at run time, not configured; PreparedHost, scenarios and recordings have these, too.
FOUND_OUT = (
    _key("announce_on_order", Switch(), False),  # an up script adds the addresses
    _key("source_missing", Switch(), False),  # this machine lacks the configured source
    _key("source6_missing", Switch(), False),
    _key("by_route", Switch(), False),  # its IPv4 addresses are added as local routes
)
ALL_KEYS = (*KEYS, *FOUND_OUT)


def arguments_of(settings: Keys) -> dict[str, Any]:
    """The settings of a configuration as arguments of PreparedHost."""
    return {key.argument: key.given(key.of(settings)) for key in KEYS}
