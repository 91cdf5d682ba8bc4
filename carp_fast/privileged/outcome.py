"""What a loader found: the configuration or its faults, and the lines that it would have logged.

Holds `Outcome` and how it becomes what the daemon would have had from reading the files itself.
Must not know who loads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

import msgspec

from carp_fast.config import image
from carp_fast.config.image import ImageError
from carp_fast.config.model import Configuration, ConfigurationError, Fault

# Text with names of files, which may be any bytes.
_Text = bytes
_Fault = tuple[_Text, _Text | None, _Text | None, _Text | None, _Text, int | None]


class Line(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A line for the log: the name of its logger, its level and its text."""

    logger: str
    level: int
    text: _Text


class Outcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`image`: the configuration, empty if there are faults."""

    image: bytes
    faults: tuple[_Fault, ...]
    lines: tuple[Line, ...]


def encode(result: Configuration | ConfigurationError, records: Iterable[Line]) -> bytes:
    """An outcome as bytes. Raises ImageError."""
    if isinstance(result, ConfigurationError):
        found = Outcome(b"", tuple(map(_packed, result.faults)), tuple(records))
    else:
        found = Outcome(image.encode(result), (), tuple(records))
    return msgspec.msgpack.encode(found)


def take(outcome: bytes) -> Configuration:
    """Logs the lines of an outcome and returns its configuration.

    Raises ConfigurationError with its faults, ImageError if the bytes are no outcome.
    """
    try:
        found = msgspec.msgpack.decode(outcome, type=Outcome)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ImageError(f"not an outcome: {error}") from error
    for line in found.lines:
        logging.getLogger(line.logger).log(line.level, "%s", os.fsdecode(line.text))
    if found.faults:
        raise ConfigurationError(tuple(map(_fault, found.faults)))
    return image.decode(found.image)


def _packed(fault: Fault) -> _Fault:
    texts = [
        None if text is None else os.fsencode(text)
        for text in (fault.table, fault.key, fault.value)
    ]
    return os.fsencode(fault.file), *texts, os.fsencode(fault.text), fault.line  # type: ignore[return-value]


def _fault(packed: _Fault) -> Fault:
    file, *texts, text, line = packed
    table, key, value = (None if each is None else os.fsdecode(each) for each in texts)
    return Fault(os.fsdecode(file), table, key, value, os.fsdecode(text), line)
