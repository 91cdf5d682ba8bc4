"""What a client accepts, by its headers: the format, gzip; and whether it asked for this host.

Pure: header values come in as text. Must not know connections.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

Format = Literal["text", "openmetrics"]

CONTENT_TYPES: dict[Format, str] = {
    "text": "text/plain; version=0.0.4; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
TYPES: dict[str, tuple[Format, frozenset[str]]] = {  # media type to format and known versions
    "application/openmetrics-text": ("openmetrics", frozenset({"", "1.0.0"})),
    "text/plain": ("text", frozenset({"", "0.0.4"})),
}
ITEMS_MAX = 64  # of one header; those beyond are not looked at
LOCALHOST = "localhost"
LOOPBACK_NAMES = (LOCALHOST, "localhost.")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _Item(NamedTuple):
    """One item of a header such as Accept: "text/plain;version=0.0.4;q=0.5"."""

    name: str
    parameters: dict[str, str]
    quality: float


def _items(header: str) -> Iterator[_Item]:
    for text in header.split(",")[:ITEMS_MAX]:
        name, *rest = (part.strip() for part in text.split(";"))
        parameters = {}
        for each in rest:
            key, _, value = each.partition("=")
            parameters[key.strip().lower()] = value.strip().strip('"').lower()
        if name:
            yield _Item(name.lower(), parameters, _quality(parameters.get("q", "1")))


def _quality(text: str) -> float:
    """A weight from 0 to 1; what is none counts as 0."""
    return float(text) if re.fullmatch(r"[01](\.\d{0,3})?", text) and float(text) <= 1 else 0.0


def format_for(accept: str | None) -> Format | None:
    """The format that a client prefers by its Accept header; None if it accepts neither.

    A type of its own counts more than a wildcard, and of two with the same weight OpenMetrics only
    where it was named: a browser or a curl gets text.
    """
    if accept is None or not accept.strip():
        return "text"
    best: dict[Format, float] = {}
    wildcard = 0.0
    for item in _items(accept):
        if item.name in ("*/*", "text/*"):
            wildcard = max(wildcard, item.quality)
            continue
        found = TYPES.get(item.name)
        if found is not None and item.parameters.get("version", "") in found[1]:
            best[found[0]] = max(best.get(found[0], 0.0), item.quality)
    text, openmetrics = best.get("text", wildcard), best.get("openmetrics", 0.0)
    if openmetrics and openmetrics >= text:
        return "openmetrics"
    return "text" if text else None


def accepts_gzip(header: str | None) -> bool:
    """Whether Accept-Encoding allows gzip; without the header a client gets none."""
    qualities = {item.name: item.quality for item in _items(header or "")}
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0))) > 0


def is_loopback_host(header: str) -> bool:
    """Whether a Host header names this host by a loopback address, or as localhost.

    A web page may let its own name resolve to 127.0.0.1 (DNS rebinding) and have a browser on this
    host ask; the header then has that name.
    """
    host = _host_in(header)
    return host == LOCALHOST or (isinstance(host, Address) and host.is_loopback)


def is_address_host(header: str) -> bool:
    """Whether a Host header has an address or localhost: no name that may resolve to anything."""
    return _host_in(header) is not None


def _host_in(header: str) -> Address | str | None:
    """The address in a Host header, or LOCALHOST; None: it has another name, or is none."""
    name, _, port = header.rpartition(":") if re.search(r":\d*$", header) else (header, "", "")
    if not header.isascii() or (port and int(port) > 65_535):
        return None
    if name.lower() in LOOPBACK_NAMES:
        return LOCALHOST
    bracketed = name.startswith("[") and name.endswith("]")
    try:
        address = ipaddress.ip_address(name[1:-1] if bracketed else name)
    except ValueError:
        return None
    return address if bracketed == (address.version == 6) else None
