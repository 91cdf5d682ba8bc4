"""Each key of a virtual host reaches all that takes it from the table: one that is left out fails.

The rows of keys.py are the tests' parameters, so that a new key needs none here for what every key
must do: be read from a file, reach the engine, and survive a reload, a recording and a replay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from carp_fast.config.load import (
    Configuration,
    ConfigurationError,
    Daemon,
    Settings,
    VirtualHost,
)
from carp_fast.config.rules import TABLE_KEYS
from carp_fast.daemon import reload
from carp_fast.daemon.table import Hosts
from carp_fast.engine._engine import Engine
from carp_fast.engine.keys import ALL_KEYS, KEYS, Key, OneOf, Seconds, Switch, Whole
from carp_fast.replay import scenario as scenarios
from carp_fast.replay.player import play, prepared
from carp_fast.replay.recording import configured_table
from carp_fast.replay.scenario import toml_value
from tests.support import recorded, segment
from tests.support.configurations import HOST, read

NOW_NS = segment.START_NS
# What the engine works out from other values: where a host advertises, whether it has a source.
FOLLOWS = {"expects_4", "expects_6", "own_source", "own_source6"}
DOCUMENTED = (Path(__file__).parent.parent.parent / "docs" / "keys.md").read_text()
LIFE = """
transcript = '''
0 hear 10.77.0.1 1/0
9 demote 20
40 resign
41 end
'''
"""
every_key = pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
every_key_or_fact = pytest.mark.parametrize("key", ALL_KEYS, ids=lambda key: key.name)


def another(key: Key) -> int | float | bool | str:
    """A value that is not the default."""
    match key.kind:
        case Whole(lowest, highest):
            return highest if highest != key.default else lowest
        case Seconds(_, highest):
            return highest / 32
        case OneOf(values):
            return next(value for value in values if value != key.default)
        case Switch():
            return not key.default


def with_value(key: Key) -> Settings:
    """Settings with another value of the key."""
    settings = Settings(passphrase=b"secret")
    if not key.table:
        return msgspec.structs.replace(settings, **{key.name: another(key)})
    last = key.name.rpartition(".")[2]
    table = msgspec.structs.replace(getattr(settings, key.table), **{last: another(key)})
    return msgspec.structs.replace(settings, **{key.table: table})


def virtual_host(settings: Settings) -> VirtualHost:
    return VirtualHost("eth0", 42, ("10.77.0.100/24",), (), settings)


def table_with(key: Key, value: object) -> dict[str, Any]:
    """A scenario's host with one more key."""
    table = scenarios.named(dict(scenarios.HOST_DEFAULTS))
    key.put_into(table, value)
    return table


def test_every_number_that_the_engine_has_is_a_key_or_follows_from_other_values() -> None:
    assert set(segment.prepared().configured) == {key.field for key in ALL_KEYS} | FOLLOWS


@every_key_or_fact
def test_a_key_changes_its_own_field_in_the_engine_and_no_other(key: Key) -> None:
    plain = segment.prepared().configured
    changed = segment.prepared(**{key.argument: key.given(another(key))}).configured
    assert {field for field in plain if plain[field] != changed[field]} == {key.field}
    assert (key.value(plain[key.field]), key.value(changed[key.field])) == (
        key.default,
        another(key),
    )


@every_key
def test_a_key_is_read_from_a_configuration(tmp_path: Path, key: Key) -> None:
    (made,) = read(tmp_path, f"{HOST}{key.name} = {toml_value(another(key))}\n").virtual_hosts
    assert made.settings == msgspec.structs.replace(
        with_value(key), passphrase=b"k3Jx9QpL2mZt", origin=made.settings.origin
    )


@every_key
def test_a_key_that_is_wrong_is_refused_by_name(tmp_path: Path, key: Key) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, f"{HOST}{key.name} = []\n")
    (fault,) = caught.value.faults
    assert (fault.key, fault.value) == (key.name, "[]")
    assert fault.text.startswith("must be ")


@every_key
def test_a_key_of_a_configuration_reaches_the_engine(key: Key) -> None:
    plain = Hosts().prepare(virtual_host(Settings(passphrase=b"secret"))).configured
    assert plain == segment.prepared().configured, "their defaults are the same"
    changed = Hosts().prepare(virtual_host(with_value(key))).configured
    assert {field for field in plain if plain[field] != changed[field]} >= {key.field}
    assert key.value(changed[key.field]) == another(key)


@every_key
def test_a_reload_notices_a_key_and_changes_it_in_the_engine(key: Key) -> None:
    hosts = Hosts()
    before, after = virtual_host(Settings(passphrase=b"secret")), virtual_host(with_value(key))
    slot = hosts.take(before)
    engine = Engine()
    engine.add(slot, hosts.prepare(before), NOW_NS)
    assert engine.checkpoint(slot, NOW_NS)["settings"][key.name] == key.default
    new = Configuration(Path("carp.toml"), (), Daemon(), [after], ())
    difference = reload.compare(hosts, new)
    ((_, host, _),) = difference.replaced
    assert host is after
    engine.replace(slot, hosts.prepare(host, replacing=True), NOW_NS)
    assert engine.checkpoint(slot, NOW_NS)["settings"][key.name] == another(key)


@every_key_or_fact
def test_a_key_survives_a_recording_and_its_replay(key: Key) -> None:
    table = table_with(key, another(key))
    player = recorded.played(msgspec.structs.replace(scenarios.parse(LIFE), hosts=[table]))
    text = recorded.recording(player)
    (host,) = scenarios.parse(text).hosts
    assert key.found_in(host) == another(key)
    again, first = (prepared(each, 0, own_source=True).configured for each in (host, table))
    assert again == first
    decided = [line.text for line in scenarios.parse(text).lines if line.output]
    assert decided
    assert decided == [output.text for output in play(scenarios.parse(text))]


@every_key
def test_a_configured_virtual_host_as_a_scenarios_has_its_keys(key: Key) -> None:
    assert key.found_in(configured_table(virtual_host(with_value(key)))) == another(key)


def allowed(key: Key) -> str:
    """The values of a key as the page says them."""
    match key.kind:
        case Switch():
            return "true or false"
        case OneOf(values):
            *first, last = map(toml_value, values)
            return f"{', '.join(first)} or {last}"
        case Whole(lowest, highest) | Seconds(lowest, highest):
            return f"{lowest} to {highest}"


@every_key
def test_a_key_is_documented_with_its_values_and_its_default(key: Key) -> None:
    default = f"{key.default:g}" if isinstance(key.kind, Seconds) else toml_value(key.default)
    row = f"| `{key.name}` | {allowed(key)} | {default} | "
    (line,) = (line for line in DOCUMENTED.splitlines() if line.startswith(row))
    assert line.removeprefix(row).endswith(" |")


def test_every_other_key_of_a_table_is_documented() -> None:
    built = {name for name in TABLE_KEYS if name not in ("address_mac", "track")}
    assert {name for name in built if f"`{name}" not in DOCUMENTED} == set()


def test_a_key_that_nobody_knows_is_refused() -> None:
    with pytest.raises(TypeError, match="no key of a virtual host: colour"):
        segment.prepared(colour="red")
