"""The demotion of a virtual host in sentences: its reasons, tracks and group, for `explain`.

Uses only the document, as explain_text does.
"""

from __future__ import annotations

from collections.abc import Iterator

from carp_fast.control.documents import MaintenanceState
from carp_fast.control.explanations import HeardMaster, VirtualHostExplanation
from carp_fast.daemon.explain_words import DEMOTION_MEANINGS, seconds

TRACKS_LISTED = 16  # per virtual host
RESIGNATION = (255, 255)  # advbase, advskew
DEMOTED_ADVSKEW = 240
ENDED_BY_TIME = ("address_lost", "address_deadline", "send_errors")
HANDING_OVER = {"operator", "track", "group", "maintenance"}  # others are to take over
TAKES_OVER = frozenset({"slower_master", "master_demoted", "contested"})


def culprits(host: VirtualHostExplanation) -> str:
    """The tracks or members that its reason is about, if they still fail: " (web, disk)"."""
    named: tuple[str, ...] = ()
    if host.reason == "track_failed":
        named = tuple(track.name for track in host.tracks if track.hard)
    elif host.reason == "group_demoted" and host.group is not None and host.group.demoted:
        named = host.group.because
    return f" ({', '.join(named[:TRACKS_LISTED])})" if named else ""


def demotion(host: VirtualHostExplanation) -> Iterator[str]:
    reasons = host.demotion.reasons
    for reason, value in reasons.items():
        meaning = meaning_of(reason, value, host)
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
    yield from master_all_the_same(host)
    yield from once_it_has_ended(host)
    if host.undemoted_in_s is not None:
        by_time = ", ".join(reason for reason in ENDED_BY_TIME if reason in reasons)
        yield f"the demotion by {by_time or 'time'} ends in {seconds(host.undemoted_in_s)}"
    if host.failed_sends and "send_errors" not in reasons:
        yield (
            f"the last {host.failed_sends} advertisements could not be sent: "
            "an interval without any demotes it"
        )


def meaning_of(reason: str, value: int, host: VirtualHostExplanation) -> str:
    """What a reason of a demotion is about, by name where it has names, and what ends it."""
    if reason == "operator" and host.operator_demotions:
        ordered = "; ".join(f"{text}: {amount}" for text, amount in host.operator_demotions.items())
        return f"{ordered}; carp-fast undemote ends one"
    if reason == "track" and (acting := [track for track in host.tracks if track.demotion]):
        most = sum(track.demotion for track in acting) > value
        named = "; ".join(f"{track.name}: {track.demotion}" for track in acting[:TRACKS_LISTED])
        more = len(acting) - TRACKS_LISTED
        others = f" and {more} more" if more > 0 else ""
        return f"{named}{others}{f'; at most {value} together' if most else ''}"
    if reason == "group" and host.group is not None:
        return f"group {host.group.name}, {host.group.why}"
    if reason == "maintenance" and host.maintenance is not None:
        return f"{in_maintenance(host.maintenance)}; carp-fast maintenance off ends it"
    return DEMOTION_MEANINGS.get(reason, "")


def group(host: VirtualHostExplanation) -> Iterator[str]:
    """What the demotion of its group means for a virtual host now, and when it ends."""
    mine = host.group
    if mine is None:
        return
    if "group" not in host.demotion.reasons:
        allowed = "any" if mine.demote_when == "any" else "none"
        when = f"is demoted when {allowed} of its members can{'not' * (allowed == 'any')}"
        yield (
            f"group {mine.name}, {mine.members:,} members, {host.group_masters:,} of them MASTER"
            f" here, {when} be MASTER here"
        )
        return
    other = demoted_too(host)
    if other is not None:
        sends = f"advskew {other.advskew}"
        if host.dialect == "openbsd":
            sends = f"demote byte {other.demote}"
        yield (
            f"{other.source} is demoted, too, it advertises {sends}: both hosts are half broken,"
            " each holds what it can, and the least demoted one what both can; unless that host is"
            " in maintenance"
        )
    need = "every member" if mine.demote_when == "any" else "a member"
    own = f"{host.interface}/{host.vhid}"
    first = next((name for name in mine.because if name != own), None)
    hint = ""
    if first is not None:
        interface, _, vhid = first.rpartition("/")
        hint = f"; carp-fast explain {interface} {vhid} shows what is missing there"
    yield (
        f"the demotion by group {mine.name} ends as soon as {need} can be MASTER here again{hint}"
    )


def master_all_the_same(host: VirtualHostExplanation) -> Iterator[str]:
    """Why a MASTER is that although it is demoted; nothing for a demotion by an error."""
    reasons = host.demotion.reasons
    if host.state != "MASTER" or not reasons.keys() & HANDING_OVER:
        return
    if "maintenance" in reasons:
        yield (
            "still MASTER in maintenance: no other host has taken it over, and demotion never stops"
            " a host that hears no other; to give it up all the same: carp-fast maintenance off,"
            " then on --force"
        )
    elif "group" not in reasons or demoted_too(host) is None:
        both = ", each with another broken member" if "group" in reasons else ""
        yield (
            "it is MASTER all the same: no other host has taken it over so far (none is there, none"
            f" preempts, or all are demoted as much{both}), and demotion never stops a host that"
            f" hears no other; carp-fast explain {host.interface} {host.vhid} there shows more"
        )


def once_it_has_ended(host: VirtualHostExplanation) -> Iterator[str]:
    """Whether a BACKUP that is demoted comes back by itself: what the engine makes of its master.

    Nothing if there is none that would go on.
    """
    if host.state != "BACKUP" or not host.demotion.reasons.keys() - {"link"}:
        return
    for each in host.heard:
        if not each.current or (each.advbase, each.advskew) == RESIGNATION or not each.undemoted:
            continue
        whom = f"{each.source} ({each.advbase}/{each.advskew})"
        if each.undemoted in TAKES_OVER:
            delay_s = host.preempt_delay_s
            delay = f", after preempt_delay_s = {delay_s:g}" if delay_s else ""
            yield f"when it is no longer demoted, it takes over from {whom}{delay}"
        elif each.interval_s > host.advbase + host.advskew / 256:
            preempt = host.preempt
            shown = f'"{preempt}"' if isinstance(preempt, str) else str(preempt).lower()
            yield (
                f"when it is no longer demoted, it stays BACKUP of {whom}, since preempt = {shown};"
                f" carp-fast preempt {host.interface} {host.vhid} takes over then"
            )
        else:
            yield (
                f"when it is no longer demoted, it stays BACKUP of {whom}, which is not slower than"
                f" {host.advbase}/{host.advskew}"
            )


def demoted_too(host: VirtualHostExplanation) -> HeardMaster | None:
    """The other host, if it is demoted as by its group, too."""
    return next((each for each in host.heard if each.current and is_demoted(each, host)), None)


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
    until += ", with --force" if state.force else ""
    return f"this host is in maintenance since {state.since}{why}{until}"


def tracks(host: VirtualHostExplanation) -> Iterator[str]:
    """What it tracks: each that demotes it, then the others."""
    acting = [track for track in host.tracks if track.demotion]
    others = [track for track in host.tracks if not track.demotion]
    for track in (*acting, *others)[:TRACKS_LISTED]:
        does = "demotes it by nothing"
        if track.hard:
            cannot = "is not to be" if host.state == "MASTER" else "cannot be"
            does = f"it {cannot} MASTER here, and is demoted by {track.demotion}"
        elif track.demotion:
            does = f"demoted by {track.demotion}"
        changes = f"{track.flaps:,} change{'s' * (track.flaps > 1)} so far"
        flaps = f", {changes}" if track.flaps else ""
        ends = f"; it is ok again {track.ends}" if track.ends else ""
        yield (
            f"track {track.name} ({track.kind}): {does}: {track.state} since {track.since}"
            f" (for {seconds(track.for_s)}{flaps}): {track.last}{ends}"
        )
    if len(host.tracks) > TRACKS_LISTED:
        yield f"... and {len(host.tracks) - TRACKS_LISTED} more tracks"
