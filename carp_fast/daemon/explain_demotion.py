"""The demotion of a virtual host in sentences: its reasons, tracks and group, for `explain`.

Uses only the document, as explain_text does.
"""

from __future__ import annotations

from collections.abc import Iterator

from carp_fast.control.documents import HeardMaster, MaintenanceState, VirtualHostExplanation
from carp_fast.daemon.explain_words import DEMOTION_MEANINGS, seconds

TRACKS_LISTED = 16  # per virtual host
RESIGNATION = (255, 255)  # advbase, advskew
DEMOTED_ADVSKEW = 240


def demotion(host: VirtualHostExplanation) -> Iterator[str]:
    reasons = host.demotion.reasons
    for reason, value in reasons.items():
        meaning = DEMOTION_MEANINGS.get(reason)
        if reason == "operator" and host.operator_demotions:
            ordered = host.operator_demotions.items()
            meaning = "; ".join(f"{text}: {amount}" for text, amount in ordered)
        elif reason == "group" and host.group is not None:
            meaning = f"group {host.group.name}, {host.group.why}"
        elif reason == "maintenance" and host.maintenance is not None:
            meaning = in_maintenance(host.maintenance)
        yield f"{reason}: {value}{' (' + meaning + ')' if meaning else ''}"
    if reasons.keys() - {"link"} and host.dialect == "openbsd":
        yield f"{host.demotion.total} in total: demote byte {host.demote} is sent"
    elif reasons.keys() - {"link"}:
        yield (
            f"{host.demotion.total} in total: advskew {host.advskew} becomes"
            f" {host.effective_advskew}"
        )
    elif not reasons:
        yield "none"
    yield from tracks(host)
    yield from group(host)
    if "maintenance" in reasons and host.state == "MASTER":
        yield (
            "still MASTER in maintenance: no other host has taken it over, and demotion never stops"
            " a host that hears nobody"
        )
    if host.undemoted_in_s is not None:
        yield f"the demotion by time ends in {seconds(host.undemoted_in_s)}"
    if host.failed_sends and "send_errors" not in reasons:
        yield (
            f"the last {host.failed_sends} advertisements could not be sent: "
            "an interval without any demotes it"
        )


def group(host: VirtualHostExplanation) -> Iterator[str]:
    """What the demotion of its group means for a virtual host now, and when it ends."""
    mine = host.group
    if mine is None:
        return
    if "group" not in host.demotion.reasons:
        allowed = "any" if mine.demote_when == "any" else "none"
        when = f"is demoted when {allowed} of its members can{'not' * (allowed == 'any')}"
        yield f"group {mine.name}, {mine.members:,} members, {when} be MASTER here"
        return
    other = next((each for each in host.heard if each.current and is_demoted(each, host)), None)
    if other is not None:
        yield (
            f"{other.source} is demoted, too: both hosts are half broken, each holds what it can,"
            " and the least demoted one what both can"
        )
    elif host.state == "MASTER":
        yield "it is MASTER all the same: demotion never stops a host that hears no other"
    need = "every member" if mine.demote_when == "any" else "a member"
    yield f"that ends as soon as {need} can be MASTER here again"


def is_demoted(heard: HeardMaster, host: VirtualHostExplanation) -> bool:
    """Whether a host that was heard within our master-down time is demoted as by its group."""
    demoted = heard.demote if host.dialect == "openbsd" else heard.advskew
    return (
        demoted >= DEMOTED_ADVSKEW
        and (heard.advbase, heard.advskew) != RESIGNATION
        and heard.heard_ago_s <= host.master_down_s
    )


def in_maintenance(state: MaintenanceState) -> str:
    """ "this host is in maintenance since TIME (new switch), until TIME"."""
    why = f" ({state.reason})" if state.reason else ""
    until = f", until {state.until}" if state.until else ""
    until += ", until the daemon ends" if state.until_stop else ""
    return f"this host is in maintenance since {state.since}{why}{until}"


def tracks(host: VirtualHostExplanation) -> Iterator[str]:
    """What it tracks: each that demotes it, then the others."""
    acting = [track for track in host.tracks if track.demotion]
    others = [track for track in host.tracks if not track.demotion]
    for track in (*acting, *others)[:TRACKS_LISTED]:
        does = "demotes it by nothing"
        if track.hard:
            does = f"it cannot be MASTER here, and is demoted by {track.demotion}"
        elif track.demotion:
            does = f"demoted by {track.demotion}"
        flaps = f", {track.flaps:,} changes so far" if track.flaps else ""
        yield (
            f"track {track.name} ({track.kind}): {does}: {track.state} since {track.since}"
            f" (for {seconds(track.for_s)}{flaps}): {track.last}"
        )
    if len(host.tracks) > TRACKS_LISTED:
        yield f"... and {len(host.tracks) - TRACKS_LISTED} more tracks"
