"""The programs of a configuration by number: as its loader writes them, as the daemon finds them.

Both count in the same order, so that the daemon needs no more than numbers. Must not know how a
program is started.
"""

from __future__ import annotations

from collections.abc import Iterator

from carp_fast.config.model import Configuration, Settings, VirtualHost, is_function
from carp_fast.config.tracks import ScriptTrack
from carp_fast.privileged.rows import Row
from carp_fast.programs.spawning import Program

Key = tuple[str, tuple[str, ...], bool]  # path, further arguments, whether it is a hook


def key_of(program: Program) -> Key:
    """What a program's number is found by: all but its place."""
    return program.path, program.more, program.place is not None


def numbers(configuration: Configuration) -> dict[Key, int]:
    """The number of each program."""
    return {key: number for number, key in enumerate(_keys(configuration))}


def rows(configuration: Configuration, *, inherits: bool = False) -> list[Row]:
    """The programs in the order of their numbers; `inherits`: as ucarp's scripts do."""
    found = {key: Row(*key, inherits=inherits) for key in _keys(configuration)}
    for host in configuration.virtual_hosts:
        for key in _hooks(host.settings):
            found[key].places.append(place_of(host))
    return list(found.values())


def place_of(host: VirtualHost) -> tuple[str, str]:
    """The arguments that the hooks of a virtual host get: its interface and first address."""
    return host.interface, host.addresses[0].partition("/")[0]


def _keys(configuration: Configuration) -> dict[Key, None]:
    keys: dict[Key, None] = {}
    every = {id(host.settings): host.settings for host in configuration.virtual_hosts}
    for settings in every.values():
        keys.update(dict.fromkeys(_hooks(settings)))
    if configuration.daemon.notify is not None:
        keys[configuration.daemon.notify, (), False] = None
    for track in configuration.tracks:
        if isinstance(track, ScriptTrack):
            keys[track.script[0], track.script[1:], False] = None
    return keys


def _hooks(settings: Settings) -> Iterator[Key]:
    more = () if settings.xparam is None else (settings.xparam,)
    for target in (settings.up, settings.down):
        if target is not None and not is_function(target):
            yield target, more, True
