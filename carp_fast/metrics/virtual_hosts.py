"""The text of /metrics/virtual_hosts: two lines for each virtual host, made a slice at a time.

Written here because prometheus_client makes an object for each sample, which takes seconds and much
memory for tens of thousands. Must not know how a client asks, nor where a state comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from carp_fast.metrics.families import PREFIX, STATE, TRANSITIONS, Family
from carp_fast.metrics.negotiation import Format

Row = tuple[str, int, int, int]  # interface, vhid, state, transitions


def escaped(value: str) -> str:
    """The value of a label between its quotes."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _head(family: Family, form: Format) -> str:
    name = family.exported if form == "text" else PREFIX + family.name
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n"


def _lines(family: Family, rows: Iterable[Row]) -> Iterator[str]:
    name, column = family.exported, 2 if family is STATE else 3
    last, start = None, ""
    for row in rows:
        if row[0] != last:
            last = row[0]
            start = f'{name}{{interface="{escaped(last)}",vhid="'
        yield f'{start}{row[1]}"}} {row[column]}\n'


def parts(slices: Iterable[Iterable[Row]], form: Format) -> Iterator[bytes]:
    """The document in parts: a family, then the other one, each slice by slice.

    `slices` is passed through twice.
    """
    for family in (STATE, TRANSITIONS):
        yield _head(family, form).encode()
        for rows in slices:
            yield "".join(_lines(family, rows)).encode()
    if form == "openmetrics":
        yield b"# EOF\n"
