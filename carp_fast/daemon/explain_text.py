"""The output of `explain`: the facts of its document in sentences.

Uses only the document (explain.py makes it), and the meanings of words in explain_words. Must not
judge: the engine decides which event a source would cause; this module only puts it into a
sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from carp_fast.control.documents import VirtualHostFacts
from carp_fast.control.explanations import Explanation, HeardMaster, VirtualHostExplanation
from carp_fast.daemon.explain_demotion import (
    DEMOTED_ADVSKEW,
    RESIGNATION,
    culprits,
    demotion,
)
from carp_fast.daemon.explain_words import (
    CONSEQUENCES,
    FORM_MEANINGS,
    REASON_MEANINGS,
    TWIN_YIELDS,
    VERDICT_HINTS,
    WARNING_HINTS,
    seconds,
)
from carp_fast.daemon.own_sources import MEANINGS, USABLE

ADDRESSES_LISTED = 16  # per virtual host and kind
FOREIGN = "address_foreign"
NOBODY_HEARD = {
    "INIT": ", and none would count in INIT",
    "BACKUP": "",
    "MASTER": ": a BACKUP sends nothing, and nothing is heard across a split segment",
}


def text(document: Explanation) -> str:
    """Every virtual host of the document, an empty line between two."""
    return "\n\n".join("\n".join(lines(host)) for host in document.virtual_hosts)


def lines(host: VirtualHostExplanation) -> Iterator[str]:
    """One virtual host: a heading and indented lines for each section that is not empty."""
    name = f"virtual host {host.interface}/{host.vhid}"
    sections = {
        f"{name} ({host.name})" if host.name else name: identity(host),
        "heard masters": heard_masters(host),
        "timers": timers(host),
        "demotion": demotion(host),
        "addresses": addresses(host),
        "last rejections": rejections(host),
        "counters": counters(host),
        "to take part": to_take_part(host),
    }
    for heading, found in sections.items():
        if section := list(found):
            yield heading
            yield from (f"  {line}" for line in section)


def rate(advbase: int, advskew: int, interval_s: float) -> str:
    return f"{advbase}/{advskew} ({seconds(interval_s)})"


# ---------------------------------------------------------------------------- what and why it is


def identity(host: VirtualHostExplanation) -> Iterator[str]:
    if host.description:
        yield host.description
    if host.segment:
        yield f"segment {host.segment}"
    families = " and ".join(f"IPv{family}" for family in host.families)
    groups = [ip_address(text).is_multicast for text in host.destinations]
    kind = (
        "unicast to" if not all(groups) else "to the group" if len(groups) == 1 else "to the groups"
    )
    own = [each for each in (host.source, host.source6) if each]
    yield (
        f"advertises over {families} {kind} {', '.join(host.destinations)}, "
        f"from {' and '.join(own) or 'no address yet'}, dialect {host.dialect}"
    )
    for source, where in host.configured_sources.items():
        if where != "here":
            yield f"its configured source {source} {MEANINGS[where]}"
    advskew, effective = host.advskew, host.effective_advskew
    sent = "" if effective == advskew else f" ({effective} is sent)"
    yield (
        f"advbase {host.advbase}, advskew {advskew}{sent}: an advertisement every "
        f"{seconds(host.interval_s)}, master-down time {seconds(host.master_down_s)} "
        f"(dead_ratio {host.dead_ratio})"
    )
    if host.digest:
        yield FORM_MEANINGS[host.digest.form].format(
            link_local=listed(host.digest.link_local), automatic=host.digest.automatic
        )
    reason = host.reason
    yield (
        f"{host.state} since {host.since} (for {seconds(host.for_s)})"
        f"{', reason ' + reason if reason else ''}: {REASON_MEANINGS.get(reason, reason)}"
        f"{culprits(host)}"
    )
    for word, warning in host.warnings.items():
        if word not in WARNING_HINTS:
            yield f"{word}: {warning}"


# ----------------------------------------------------------------------------------- heard masters


def heard_masters(host: VirtualHostExplanation) -> Iterator[str]:
    for each in host.heard:
        yield f"{sender(each, host)} {judgement(each, host)}"
        if each.demote and host.dialect != "openbsd":
            yield (
                f"{each.source} sends demote byte {each.demote} as OpenBSD does, and dialect "
                f'{host.dialect} ignores it: set dialect = "openbsd"'
            )
    for word, warning in host.warnings.items():
        if word in WARNING_HINTS:  # the others are not about the segment
            yield f"{word}: {warning}: {WARNING_HINTS[word].format(interface=host.interface)}"
    yield from silent_master(host)
    if not host.heard:
        yield "no host has been heard" + NOBODY_HEARD[host.state]
    for family in host.silent_families:
        yield (
            f"nothing is heard over IPv{family}, only over the other family: that alone does not "
            "make it take over"
        )


def silent_master(host: VirtualHostExplanation) -> Iterator[str]:
    """What the silence of the master before this one may mean; of one that resigned nothing."""
    if host.state != "MASTER" or host.reason != "master_down":
        return
    for each in host.heard:
        silent_s = each.heard_ago_s - host.for_s  # when it took over
        resigned = (each.advbase, each.advskew) == RESIGNATION
        if (
            each.current
            and not each.own_source
            and not resigned
            and 0 < silent_s <= host.master_down_s + host.interval_s
        ):
            yield (
                f"{each.source} fell silent {seconds(each.heard_ago_s)} ago, and no resignation was"
                f" heard: that host or its link is down, or the segment of {host.interface} is"
                f" split and it is MASTER, too: compare carp-fast explain {host.interface}"
                f" {host.vhid} there{alive(host)}"
            )


def alive(host: VirtualHostExplanation) -> str:
    """What speaks for a split segment: another host holds members of the same group."""
    mine = host.group
    if mine is None or mine.impeded or host.group_masters >= mine.members:
        return ""
    elsewhere = mine.members - host.group_masters
    return (
        f"; {elsewhere:,} of {mine.members:,} members of group {mine.name} are not MASTER here, so"
        " that host seems to be alive"
    )


def sender(heard: HeardMaster, host: VirtualHostExplanation) -> str:
    """Source, MAC, family, counter, and how long ago: the part before the verdict."""
    about = [heard.mac, f"IPv{heard.family}", f"counter {heard.counter}"]
    if heard.own_source:
        about.append("our own source address, which another host has, too")
    if heard.current:
        about.append("the current master" if host.state == "BACKUP" else "heard last")
    return f"{heard.source} ({', '.join(about)}), {seconds(heard.heard_ago_s)} ago,"


def judgement(heard: HeardMaster, host: VirtualHostExplanation) -> str:
    """What it advertises, how that compares, and its effect: the engine's event in words."""
    event = heard.event
    again = "if it is heard again, " if heard.heard_ago_s > host.master_down_s else ""
    if (heard.advbase, heard.advskew) == RESIGNATION:
        follows = "it has no effect"
        if event == "master_leaving":
            follows = "we do not wait for our master-down time"
        elif event == "slower":
            follows = "we stay MASTER"
        return f"resigned (255/255): {follows}"
    advertised = f"advertises {rate(heard.advbase, heard.advskew, heard.interval_s)}"
    if host.state == "INIT":
        return f"{advertised}: nothing that is heard counts in INIT"
    advertised += f", {comparison(heard, host)}"
    if event is None:
        return (
            f"{advertised}, less often than our master-down time, and is not the master that we"
            " know: it has no effect"
        )
    if heard.own_source and event in ("tie_lost", "tie_yielded"):
        return f"{advertised}: {again}{TWIN_YIELDS}"
    return f"{advertised}{because(heard, host)}: {again}{CONSEQUENCES[event]}"


def decided_by_demotion(heard: HeardMaster, host: VirtualHostExplanation) -> bool:
    return bool(host.dialect == "openbsd" and heard.demote != host.demote)


def comparison(heard: HeardMaster, host: VirtualHostExplanation) -> str:
    theirs, ours = heard.interval_s, host.interval_s
    if decided_by_demotion(heard, host):
        less = "less" if heard.demote < host.demote else "more"
        return f"{less} demoted than we are (demote byte {heard.demote}, ours {host.demote})"
    how = "as fast as" if theirs == ours else "faster than" if theirs < ours else "slower than"
    return f"{how} our {rate(host.advbase, host.effective_advskew, ours)}"


def because(heard: HeardMaster, host: VirtualHostExplanation) -> str:
    """Why a comparison does not have the expected outcome; often nothing."""
    theirs, ours, event = heard.interval_s, host.interval_s, heard.event
    if decided_by_demotion(heard, host) or theirs < ours:
        return ""
    if event == "master_heard":
        return why_no_preemption(heard, host) if theirs > ours else ", a tie that changes nothing"
    if event == "slower" and theirs == ours:
        if heard.own_source:
            return ", a tie with our own source address that goes to our higher MAC"
        if heard.family == 6 and 4 in host.families:
            return ", a tie that IPv4 decides, or the lower source if it goes on"
        return ", a tie that goes to the lower source, which is ours (dialect ucarp)"
    return ""


def why_no_preemption(heard: HeardMaster, host: VirtualHostExplanation) -> str:
    preempt = host.preempt
    if preempt is False:
        return ", but preempt = false"
    if preempt == "demoted" and heard.advskew < DEMOTED_ADVSKEW:
        return f', but preempt = "demoted" and it is not (advskew below {DEMOTED_ADVSKEW})'
    left = host.preempts_in_s
    runs = "begins when it is next heard" if left is None else f"runs for another {seconds(left)}"
    return f", but preempt_delay_s = {host.preempt_delay_s:g} {runs}"


# ------------------------------------------------------------------------------------------- timers


def timers(host: VirtualHostExplanation) -> Iterator[str]:
    timer = host.timer
    if timer is not None:
        left = timer.in_s
        yield {
            "ready": f"startup_delay_s = {host.startup_delay_s:g} runs: takes part in "
            f"{seconds(left)}",
            "master_down": f"takes over in {seconds(left)} unless a master is heard",
            "master_left": f"{leaving(host)}: takes over in {seconds(left)}",
            "our_turn": f"takes over in {seconds(left)}, unless another loser of it is faster",
            "advertisement_due": f"next advertisement in {left * 1e3:.0f} ms",
        }[timer.event]
    if host.preempts_in_s:
        yield (
            f"preempt_delay_s = {host.preempt_delay_s:g} runs: takes over from a slower master "
            f"in {seconds(host.preempts_in_s)} at the earliest; carp-fast preempt"
            f" {host.interface} {host.vhid} does not wait for it"
        )
    stalled = host.stalled
    if stalled is not None:
        yield (
            "the pump did not run, or the kernel dropped frames: it waits longer for what it may "
            f"have missed until {stalled.until} ({seconds(stalled.ago_s)} ago)"
        )
    if host.state == "BACKUP" and host.ties:
        yield (
            f"it lost a tie recently ({host.ties} since only one master was heard for two "
            f"master-down times): each wait is {seconds(host.jitter_s)} longer, so that equal "
            "hosts do not take over together"
        )


def leaving(host: VirtualHostExplanation) -> str:
    """Why the wait for a master is short: it resigned, or is slower than our master-down time."""
    resigned = any(
        each.current and (each.advbase, each.advskew) == RESIGNATION for each in host.heard
    )
    return "the master leaves" if resigned else "the master advertises too rarely for us"


# ---------------------------------------------------------------------------------------- addresses


def how_held(host: VirtualHostExplanation) -> Iterator[str]:
    """How its IPv4 addresses are held, where that is not the default, and why."""
    if not any(":" not in address for address in host.addresses):
        return
    hold, why = host.hold, host.no_routes_because
    if host.held_by == "route":
        yield f'IPv4 by local routes: ip route show table local proto 112 (hold = "{hold}")'
        if hold == "address":
            yield "the routes stay until it is no longer MASTER"
    elif hold != "address" and why is None:
        yield f'IPv4 as addresses until it is no longer MASTER, then by routes (hold = "{hold}")'
    elif hold != "address":
        yield f'IPv4 as addresses although hold = "{hold}": {why}'


def addresses(host: VirtualHostExplanation) -> Iterator[str]:
    every, held, problems = host.addresses, host.addresses_held, host.address_problems
    master = host.state == "MASTER"
    # Ours is held in addition to a foreign IPv4 address with another prefix length.
    right = [a for a in every if a not in problems or (master and leaves_room(a, problems[a]))]
    if not host.manage_addresses:
        yield f"manage_addresses = false: its scripts add and remove {listed(every)}"
        return
    if not master:
        if held:
            yield f"{held} of {len(every)} still held, being removed: {listed(every)}"
        elif right:
            yield f"none held, as expected in {host.state}: {listed(right)}"
    elif right:
        missing = len(right) - held
        if missing <= 0:
            yield f"held: {listed(right)}"
        else:
            yield f"{held} held, {missing} missing and being added: {listed(right)}"
    yield from how_held(host)
    for address, why in list(problems.items())[:ADDRESSES_LISTED]:
        if why.startswith(FOREIGN):
            yield foreign(host, address, why)
        else:
            yield f"failed: {address} could not be {'added' if master else 'removed'} ({why})"
    if host.retries_in_s is not None:
        yield f"failed changes are tried again in {seconds(host.retries_in_s)}"
    if master and host.without_addresses_s is not None:
        deadline_s = host.address_deadline_s
        then = (
            f"after {deadline_s:g} s (address_deadline_s) it gives up"
            if deadline_s
            else ("address_deadline_s = 0: it stays MASTER")
        )
        yield f"without any address for {seconds(host.without_addresses_s)}: {then}"
    if len(problems) > ADDRESSES_LISTED:
        yield f"... and {len(problems) - ADDRESSES_LISTED} more that are foreign or failed"


def problems(host: VirtualHostFacts) -> list[str]:
    """The problems of a virtual host of the status document, in few words each; often none.

    INIT's reason, what is wrong on the segment, demotions, and addresses that are foreign or could
    not be changed.
    """
    found = [f"INIT ({host.reason or 'not started'})"] if host.state == "INIT" else []
    found += [f"{word}: {warning}" for word, warning in host.warnings.items()]
    found += [f"demoted ({reason})" for reason in host.demotion.reasons if reason != "link"]
    found += [f"{address}: {why}" for address, why in host.address_problems.items()]
    return found


def problem_kinds(host: VirtualHostFacts) -> list[str]:
    """The kinds of problems() that a virtual host has, a word each."""
    found = ["INIT"] if host.state == "INIT" else []
    found += host.warnings
    found += ["demoted"] if host.demotion.reasons.keys() - {"link"} else []
    return found + (["addresses"] if host.address_problems else [])


def leaves_room(address: str, why: str) -> bool:
    """Whether a foreign address leaves room for ours: IPv4 with another prefix length."""
    return why.startswith(f"{FOREIGN} as ") and ":" not in address


def foreign(host: VirtualHostExplanation, address: str, why: str) -> str:
    """A foreign address of the interface, and its consequence in this state."""
    if host.state != "MASTER":
        return (
            f"foreign: {address} is on {host.interface} and not ours, left alone: this host"
            f" answers for it, although it is {host.state} ({why})"
        )
    if leaves_room(address, why):
        return (
            f"foreign: another program has added {address}, too, and it stays when another host is"
            f" MASTER ({why})"
        )
    return f"foreign: {address} existed already and is not ours, left alone ({why})"


def listed(every: list[str]) -> str:
    more = len(every) - ADDRESSES_LISTED
    return ", ".join(every[:ADDRESSES_LISTED]) + (f" and {more} more" if more > 0 else "")


# ------------------------------------------------------------------------- rejections and counters


def rejections(host: VirtualHostExplanation) -> Iterator[str]:
    by_verdict: dict[str, list[str]] = {}
    for each in host.rejections:
        sender = each.source or "an unknown source"
        whose = "" if each.vhid is not None else ", for an unknown vhid"
        line = f"{each.verdict} from {sender}{whose}, {seconds(each.ago_s)} ago"
        by_verdict.setdefault(each.verdict, []).append(line)
    for verdict, found in by_verdict.items():
        yield from found
        hint = VERDICT_HINTS[verdict].format(interface=host.interface, replay=host.replay)
        yield f"  {verdict}: {hint}"


def counters(host: VirtualHostExplanation) -> Iterator[str]:
    own = [f"{word} {count:,}" for word, count in host.counters.items() if count]
    if own:
        yield ", ".join(own)
    on_interface = [f"{word} {count:,}" for word, count in host.interface_rejected.items()]
    if on_interface:
        yield f"rejected on {host.interface}, for any virtual host: {', '.join(on_interface)}"


# --------------------------------------------------------------------------------------------- INIT


def to_take_part(host: VirtualHostExplanation) -> Iterator[str]:
    """What a virtual host in INIT lacks, and how to provide it."""
    if host.state != "INIT":
        return
    interface, link, reason = host.interface, host.link, host.reason
    if reason == "resigned":
        yield "it comes back when it is configured again, or the daemon is started again"
    elif reason == "maintenance":
        yield (
            "nothing is missing: in a maintenance with --force no virtual host takes part, until"
            " carp-fast maintenance off"
        )
    elif reason == "startup_delay":
        yield "nothing is missing: its startup delay has to end"
    elif link == "unusable":
        yield f"{interface} is not an Ethernet interface: CARP needs one with a MAC"
    elif reason == "interface_missing":
        yield f"interface {interface} does not exist: it takes part as soon as it does"
    elif reason == "link_down" and not host.set_up:
        yield f"{interface} is set down: ip link set {interface} up"
    elif reason == "link_down":
        yield (
            f"{interface} is set up and has no carrier: look at its cable, the port of the switch, "
            "and the other end; with ignore_link_state = true it takes part without carrier"
        )
    elif reason == "in_use":
        yield (
            f"{host.in_use_by or 'another process'} of this machine has it: as soon as that"
            " process ends, it takes part"
        )
    elif reason == "no_source":
        own = {4: host.source, 6: host.source6}
        missing = [f"IPv{family}" for family in host.families if not own[family]]
        for source, where in host.configured_sources.items():
            if where not in USABLE:
                yield f"source {source} {MEANINGS[where]}: {interface} needs it"
        if missing:
            yield (
                f"{interface} needs an {' and an '.join(missing)} address that is not virtual, "
                "or the configuration a source"
            )
