"""What virtual hosts track: the types of [[track]], one for each kind, all frozen.

Must not know files, TOML, or how anything is tracked. Two tracks are equal if nothing that a reload
would have to change differs.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

Initial = Literal["failed", "ok"]
Needs = Literal["link", "carrier", "address"]

TRACKS_MAX = 4096  # of one configuration
WORDS_MAX = 32  # of a script's command line
HARD_DEMOTION = 240  # of a hard condition, besides what else it does


class Track(msgspec.Struct, frozen=True, kw_only=True):
    """What every kind has.

    `demotion`: what its hosts are demoted by while it has failed; None: a hard condition, they
    cannot be MASTER here. `initial`: what it counts as until its first result.
    """

    kind: ClassVar[str] = ""
    name: str
    demotion: int | None = None
    initial: Initial = "failed"


class InterfaceTrack(Track, frozen=True, kw_only=True):
    """An interface of this machine.

    `needs`: "link": it exists and is set up; "carrier": and lets traffic pass; "address": and has
    an address that is not virtual. `rise_s`, `fall_s`: for how long a change has to last.
    """

    kind: ClassVar[str] = "interface"
    interface: str
    needs: Needs = "carrier"
    rise_s: float = 0.0
    fall_s: float = 0.0


class ProcessTrack(Track, frozen=True, kw_only=True):
    """A process: by the path of its executable, by the pid in a file, or by both. At least one is
    not None.
    """

    kind: ClassVar[str] = "process"
    executable: str | None = None
    pid_file: str | None = None
    rise_s: float = 0.0
    fall_s: float = 0.0


class FileTrack(Track, frozen=True, kw_only=True):
    """A file whose number is the demotion; `demotion` is that of a file without one."""

    kind: ClassVar[str] = "file"
    path: str


class Probed(Track, frozen=True, kw_only=True):
    """What is tried every `interval_s`, for `timeout_s` at most.

    `rise`, `fall`: so many results in a row change it; the first result does so alone.
    """

    interval_s: float = 5.0
    timeout_s: float = 3.0
    rise: int = 2
    fall: int = 2


class ScriptTrack(Probed, frozen=True, kw_only=True):
    """A program that exits with 0; `script`: its absolute path and its arguments."""

    kind: ClassVar[str] = "script"
    script: tuple[str, ...]


class Reachable(Probed, frozen=True, kw_only=True):
    """A host that answers: `target` and `source` are addresses in the form of inet_ntop.

    `interface`: the only one that packets leave by; None: as routes have it.
    """

    target: str
    source: str | None = None
    interface: str | None = None
    interval_s: float = 1.0
    timeout_s: float = 1.0
    rise: int = 2
    fall: int = 3


class PingTrack(Reachable, frozen=True, kw_only=True):
    """A host that answers echo requests."""

    kind: ClassVar[str] = "ping"


class TcpTrack(Reachable, frozen=True, kw_only=True):
    """A host that accepts TCP connections at `port`."""

    kind: ClassVar[str] = "tcp"
    port: int


KINDS: dict[str, type[Track]] = {
    each.kind: each
    for each in (InterfaceTrack, ProcessTrack, FileTrack, ScriptTrack, PingTrack, TcpTrack)
}
