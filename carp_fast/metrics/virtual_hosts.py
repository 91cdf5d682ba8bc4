"""The text of /metrics/virtual_hosts: two lines for each virtual host, made a slice at a time.

Written here because prometheus_client makes an object for each sample, which takes seconds and much
memory for tens of thousands. Must not know how a client asks, nor where a state comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from carp_fast.metrics.families import PREFIX, STATE, TRANSITIONS, Family
from carp_fast.metrics.negotiation import Format

# Interface, vhid, name ("": it has none), segment, state, transitions. State: 0 INIT, 1 BACKUP, 2
# MASTER. A plain tuple: a scrape makes two of each virtual host.
Row = tuple[str, int, str, str, int, int]


def escaped(value: str) -> str:
    """The value of a label between its quotes."""
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _head(family: Family, form: Format) -> str:
    name = family.exported if form == "text" else PREFIX + family.name
    return f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n"


def _lines(family: Family, rows: Iterable[Row]) -> Iterator[str]:
    name, of_state = family.exported, family is STATE
    last = last_segment = None
    start = end = ""
    for interface, vhid, label, segment, state, transitions in rows:
        if interface != last or segment != last_segment:
            last, last_segment = interface, segment
            start = f'{name}{{interface="{escaped(interface)}",vhid="'
            end = f'segment="{escaped(segment)}"}} '
        # No label is the same as an empty one.
        named = f'",name="{escaped(label)}",' if label else '",'
        yield f"{start}{vhid}{named}{end}{state if of_state else transitions}\n"


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
