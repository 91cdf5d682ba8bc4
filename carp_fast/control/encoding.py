"""Lines of JSON to requests, and answers to lines.

Must not know a command.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from carp_fast.control.protocol import ControlError


class _Commanded(msgspec.Struct):
    """The field that every request has."""

    command: str


def encoded_line(answer: object) -> bytes:
    """A line of JSON; bytes of a path that are not UTF-8 become question marks."""
    try:
        return msgspec.json.encode(answer) + b"\n"
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(answer), ensure_ascii=False)
        return text.encode(errors="replace") + b"\n"


def decoded(line: bytes, kind: Any) -> Any:
    """A request. Raises ValidationError for another JSON text, ControlError for none."""
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise ControlError(f"request is not JSON: {error}") from error
    except RecursionError as error:
        raise ControlError("request is nested too deeply") from error


def command_of(line: bytes) -> str:
    """The command of a request. Raises ControlError."""
    try:
        command: str = decoded(line, _Commanded).command
    except msgspec.ValidationError as error:
        text = 'request must be a JSON object with a string "command"'
        raise ControlError(text) from error
    return command
