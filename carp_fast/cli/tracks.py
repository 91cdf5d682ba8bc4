"""The tracks of a status document in lines for people.

Must not know a terminal, nor how anything is tracked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carp_fast.control.documents import TrackStatus

TRACKS_SHOWN = 10  # of those that demote virtual hosts


def track_lines(tracks: list[TrackStatus], age: Callable[[str], str]) -> Iterator[str]:
    """How many tracks there are in each state, and those that demote virtual hosts.

    `age`: the time since an instant, in words.
    """
    if not tracks:
        return
    states = Counter(track.state for track in tracks)
    counted = ", ".join(f"{states[word]:,} {word}" for word in ("ok", "failed", "unknown"))
    yield f"{len(tracks):,} tracks: {counted}"
    acting = [track for track in tracks if track.demotion]
    for track in acting[:TRACKS_SHOWN]:
        does = "cannot be MASTER" if track.hard else f"demoted by {track.demotion}"
        yield (
            f"  {track.name}: {track.virtual_hosts:,} virtual hosts {does}: {track.state} for"
            f" {age(track.since)}: {track.last}"
        )
    if len(acting) > TRACKS_SHOWN:
        yield f"  ... and {len(acting) - TRACKS_SHOWN:,} more; see status --json"
