"""A configuration as bytes, for another process of this machine: encoded and decoded, losslessly.

In place of passphrases it has their midstates, so it holds no text of any. Settings that virtual
hosts share are one object afterwards, too. Must not know files, TOML, or who reads an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from carp_fast.config.model import (
    MAX_INTERFACES,
    MAX_VIRTUAL_HOSTS,
    NO_LABELS,
    Configuration,
    Daemon,
    Labels,
    Origin,
    Settings,
    VirtualHost,
)
from carp_fast.config.tracks import KINDS, TRACKS_MAX, Track
from carp_fast.engine._auth import Passphrase
from carp_fast.errors import CarpFastError

FORMAT = 1


class ImageError(CarpFastError):
    """Raised when a configuration cannot be encoded, or bytes are not an image of one."""


# A file's name may be any bytes, which msgspec does not encode as text.
_Name = bytes
_Place = tuple[_Name, str, int | None]  # an Origin
_IN_PLACE: dict[str, object] = {"passphrase": bytes, "origin": _Place}
_FIELDS = msgspec.structs.fields(Settings)
_NAMES = tuple(field.name for field in _FIELDS)
_Packed = msgspec.defstruct(
    "_Packed",
    [(field.name, _IN_PLACE.get(field.name, field.type)) for field in _FIELDS],
    array_like=True,
    forbid_unknown_fields=True,
)


class _Host(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """A virtual host; its interface, its settings and its labels by their numbers."""

    interface: int
    vhid: int
    addresses: tuple[str, ...]
    unsigned_addresses: tuple[str, ...]
    settings: int
    labels: int = 0


class _Image(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    format: int
    path: Path
    files: tuple[Path, ...]
    daemon: Daemon
    warnings: tuple[_Name, ...]
    ended: list[tuple[Path, bool]]
    patterns: dict[str, int]
    tracks: list[tuple[str, dict[str, Any]]]  # kind, fields
    settings: list[_Packed]  # type: ignore[valid-type]
    interfaces: list[str]
    hosts: list[_Host]
    labels: list[tuple[str, str, str]] = []  # those but NO_LABELS, which are number 0


def encode(configuration: Configuration) -> bytes:
    """A configuration as an image. Raises ImageError if it has the text of a passphrase."""
    numbers: dict[int, int] = {}  # of settings, by their identity
    packed: list[Any] = []
    interfaces: dict[str, int] = {}
    labels: dict[Labels, int] = {NO_LABELS: 0}
    hosts = []
    for host in configuration.virtual_hosts:
        number = numbers.get(id(host.settings))
        if number is None:
            number = numbers[id(host.settings)] = len(packed)
            packed.append(_pack(host.settings))
        interface = interfaces.setdefault(host.interface, len(interfaces))
        label = labels.setdefault(host.labels, len(labels))
        addresses = host.addresses, host.unsigned_addresses
        hosts.append(_Host(interface, host.vhid, *addresses, number, label))
    image = _Image(
        FORMAT,
        configuration.path,
        configuration.files,
        configuration.daemon,
        tuple(map(os.fsencode, configuration.warnings)),
        list(configuration.ended.items()),
        dict(configuration.patterns),
        [(track.kind, msgspec.structs.asdict(track)) for track in configuration.tracks],
        packed,
        list(interfaces),
        hosts,
        [(each.name, each.description, each.segment) for each in labels][1:],
    )
    return msgspec.msgpack.encode(image, enc_hook=_encode_path)


def decode(image: bytes | bytearray | memoryview) -> Configuration:
    """The configuration of an image. Raises ImageError."""
    try:
        found = msgspec.msgpack.decode(image, type=_Image, dec_hook=_decode_path)
        if found.format != FORMAT:
            raise ImageError(f"an image of format {found.format}, not {FORMAT}")
        return _configuration(found)
    except (msgspec.MsgspecError, ValueError, KeyError, RecursionError) as error:
        raise ImageError(f"not an image of a configuration: {error}") from error


def _configuration(found: _Image) -> Configuration:
    sizes = (len(found.hosts), MAX_VIRTUAL_HOSTS), (len(found.interfaces), MAX_INTERFACES)
    if any(size > most for size, most in (*sizes, (len(found.tracks), TRACKS_MAX))):
        raise ValueError("it is larger than a configuration may be")
    settings = [_unpack(each) for each in found.settings]
    labels = [NO_LABELS, *(Labels(*each) for each in found.labels)]
    names = found.interfaces
    _check_numbers((each.interface for each in found.hosts), len(names))
    _check_numbers((each.labels for each in found.hosts), len(labels))
    _check_numbers((each.settings for each in found.hosts), len(settings))
    return Configuration(
        path=found.path,
        files=found.files,
        daemon=found.daemon,
        virtual_hosts=[
            VirtualHost(
                names[each.interface],
                each.vhid,
                each.addresses,
                each.unsigned_addresses,
                settings[each.settings],
                labels[each.labels],
            )
            for each in found.hosts
        ],
        warnings=tuple(map(os.fsdecode, found.warnings)),
        ended=dict(found.ended),
        patterns=found.patterns,
        tracks=tuple(_track(kind, fields) for kind, fields in found.tracks),
    )


def _check_numbers(numbers: Iterable[int], count: int) -> None:
    if not all(0 <= number < count for number in numbers):
        raise ValueError("a virtual host refers to what it does not have")


def _pack(settings: Settings) -> Any:
    values = {name: getattr(settings, name) for name in _NAMES}
    if not isinstance(settings.passphrase, Passphrase):
        raise ImageError("an image cannot have the text of a passphrase")
    values["passphrase"] = settings.passphrase.midstates
    origin = settings.origin
    values["origin"] = os.fsencode(origin.file), origin.table, origin.line
    return _Packed(**values)


def _unpack(packed: Any) -> Settings:
    values = {name: getattr(packed, name) for name in _NAMES}
    values["passphrase"] = Passphrase.from_midstates(packed.passphrase)
    file, table, line = packed.origin
    values["origin"] = Origin(os.fsdecode(file), table, line)
    return Settings(**values)


def _track(kind: str, fields: dict[str, Any]) -> Track:
    return msgspec.convert(fields, KINDS[kind])


def _encode_path(value: object) -> bytes:
    if isinstance(value, Path):
        return os.fsencode(value)
    raise NotImplementedError(f"{type(value).__name__} in a configuration")


def _decode_path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, bytes):
        return Path(os.fsdecode(value))
    raise ValueError(f"a {type(value).__name__} in place of a {kind.__name__}")
