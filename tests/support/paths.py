"""Combinations of paths: how the daemons of tests send, receive, and hold IPv4 addresses.

`pytest --paths all` runs every test that writes a configuration once with each of COMBINATIONS,
`--paths packet-raw-route` with one. write_configuration() puts the combination into the file,
except for what a test sets itself. Two marks keep a test from runs that would tell nothing new:

- own_paths(KEY, ..., reason=...): it is about one kind of these keys, or they make no difference to
  it, and it runs without them, not at all if that is all three.
- each_path(reason=...): it needs every path, but no path depends on another in it. It runs with
  EACH, in which every value is.

Must not know tests.

Every two values of different keys meet in one of COMBINATIONS, or in DEFAULT. The exception is
LEFT_OUT: four ways to receive and three to hold have 12 pairs, one more than there is time for.
`hold = "auto"` is an address or a route in the end, and the packet and ring paths have the same
sockets, so what of their pair is special is in packet-address, packet-route and ring-auto.
"tcx" is the ring path on an interface with upper devices, and where the kernel has no tcx.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import NamedTuple

OWN = "own"  # a test's, or the default


class Paths(NamedTuple):
    """One combination: values of `daemon.send`, `daemon.receive` and `hold`."""

    send: str
    receive: str
    hold: str

    def __str__(self) -> str:
        return "-".join(self)

    @property
    def daemon(self) -> dict[str, str]:
        """The keys of the table [daemon]."""
        keys = {"send": self.send, "receive": self.receive}
        return {key: value for key, value in keys.items() if value != OWN}

    @property
    def defaults(self) -> dict[str, str]:
        """The keys of the table [defaults]."""
        return {} if self.hold == OWN else {"hold": self.hold}


MOST = 10  # `make test-paths` is to end within 25 minutes
SEND = ("packet", "clones")
RECEIVE = ("packet", "ring", "raw", "tcx")
HOLD = ("address", "route", "auto")

COMBINATIONS = (
    Paths("packet", "packet", "address"),
    Paths("clones", "packet", "route"),
    Paths("packet", "ring", "route"),
    Paths("clones", "ring", "auto"),
    Paths("clones", "raw", "address"),
    Paths("packet", "raw", "route"),
    Paths("clones", "raw", "auto"),
    Paths("clones", "tcx", "address"),
    Paths("packet", "tcx", "route"),
    Paths("packet", "tcx", "auto"),
)
EACH = (
    Paths("packet", "packet", "address"),
    Paths("clones", "ring", "auto"),
    Paths("packet", "raw", "route"),
    Paths("clones", "tcx", "address"),
)
DEFAULT = Paths("clones", "ring", "address")  # without --paths, where BPF is permitted
LEFT_OUT = ("receive=packet", "hold=auto")


def missing(run: tuple[Paths, ...]) -> set[tuple[str, str]]:
    """Pairs of values, as "send=clones", that no combination of `run` has."""

    def pairs(values: dict[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
        for (a, of_a), (b, of_b) in combinations(values.items(), 2):
            yield from ((f"{a}={x}", f"{b}={y}") for x in of_a for y in of_b)

    met = {pair for each in run for pair in pairs({k: (v,) for k, v in each._asdict().items()})}
    return set(pairs({"send": SEND, "receive": RECEIVE, "hold": HOLD})) - met


def chosen_by(word: str, each: bool = False) -> tuple[Paths, ...]:
    """The combinations of an argument of --paths, `each`: for a test that is marked each_path.

    Raises ValueError naming what is allowed.
    """
    if word == "all":
        return EACH if each else COMBINATIONS
    known = {str(each): each for each in (*COMBINATIONS, DEFAULT)}
    if word not in known:
        raise ValueError(f"--paths {word}: one of all, {', '.join(known)}")
    return (known[word],)


def without(run: Iterable[Paths], own: Collection[str]) -> tuple[Paths, ...]:
    """The combinations, each once, of a test that has `own` values of these keys; none if it has
    all of them.  Raises ValueError for a name that is no key.
    """
    unknown = set(own) - set(Paths._fields)
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: one of {', '.join(Paths._fields)}")
    if set(own) == set(Paths._fields):
        return ()
    return tuple(dict.fromkeys(each._replace(**dict.fromkeys(own, OWN)) for each in run))


_current: list[Paths] = []


def current() -> Paths | None:
    """The combination that configurations take now."""
    return _current[-1] if _current else None


@contextmanager
def taken(paths: Paths | None) -> Iterator[None]:
    """Has configurations that are written within the `with` take this combination."""
    if paths is None:
        yield
        return
    _current.append(paths)
    try:
        yield
    finally:
        _current.pop()
