"""The meaning of each word that `explain` shows: parts of sentences, some with names to fill in.
And times in words.

Must not know the document in which the words are.
"""

from __future__ import annotations

REASON_MEANINGS = {
    "": "nothing has happened to it yet",
    "started": "it was added, its interface was ready, and it listens for a master",
    "link_up": "the link came up, and it listens for a master",
    "link_down": "the link is down, and nothing that is sent or heard there counts",
    "interface_missing": "its interface does not exist",
    "interface_found": "its interface appeared, and it listens for a master",
    "no_source": "there is no address to advertise from: the interface has none, or the configured "
    "source is missing",
    "in_use": "another process of this machine has it, and two would both be MASTER",
    "freed": "the process that had it is gone, and it listens for a master",
    "source_found": "its interface got an address to advertise from, and it listens for a master",
    "startup_delay": "it is ready, and waits for its startup delay",
    "master_down": "no master was heard for a whole master-down time",
    "master_resigned": "the master announced that it leaves",
    "master_too_slow": "the master advertises less often than our master-down time, and we do not "
    "wait for it",
    "preempted": "the master was slower than we are, and preempt allows taking over from it",
    "faster_master": "another host advertises at a shorter interval, and the fastest is MASTER",
    "tie_lost": "another host advertises at the same interval, and has precedence",
    "address_lost": "another program kept removing its addresses, and it gave up",
    "address_deadline": "none of its addresses could be added for address_deadline_s, and it gave "
    "up",
    "resigned": "it left on purpose, because it is removed or the daemon ends",
    "less_demoted_master": "another host advertises a lower demote byte, and is therefore MASTER",
    "master_demoted": "the master advertised a higher demote byte than ours",
    "track_failed": "something that it tracks failed, without which it cannot be MASTER here",
    "group_demoted": "its group became demoted, and every member that was MASTER resigned, once",
    "yielded": "it was ordered to hand over (carp-fast yield)",
    "taken_over": "it was ordered to take over from a slower master (carp-fast preempt)",
    "maintenance": "this host is in maintenance, and gave its addresses up",
    "maintenance_over": "the maintenance of this host is over, and it listens for a master",
}

# The effect that the next advertisement would have on us, by the engine's event.
CONSEQUENCES = {
    "master_heard": "it keeps us BACKUP",
    "slower_master": "its next advertisement makes us MASTER",
    "master_demoted": "its next advertisement makes us MASTER",
    "contested": "after a tie that all lost: its next advertisement makes us MASTER, "
    "unless another host's jitter is shorter",
    "master_leaving": "it would be silent for longer than our master-down time, and we do not wait",
    "faster": "its next advertisement makes us BACKUP",
    "less_demoted": "its next advertisement makes us BACKUP",
    "tie_lost": "a tie that goes to the lower source, which is not ours (dialect ucarp): its next "
    "advertisement makes us BACKUP",
    "tie_yielded": "a tie, which the host that hears it loses: its next advertisement makes us "
    "BACKUP",
    "slower": "we stay MASTER, and answer it",
}

TWIN_YIELDS = (
    "a tie with our own source address, which goes to the higher MAC, or to the host that does not "
    "yield: its next advertisement makes us BACKUP"
)

VERDICT_HINTS = {
    "bad_length": "too short or truncated: damaged on its way, or not CARP's use of protocol 112",
    "bad_ttl": "its TTL or hop limit is not 255: it was forwarded, or its sender does not run CARP",
    "bad_source": "unicast from a host that is not in peers: add it there if it is one of ours",
    "bad_checksum": "damaged on its way, or by the sender's network card",
    "vrrp": "VRRP, which has the same protocol number: harmless, unless it shares an address",
    "bad_version": "a version of CARP other than 2: its sender has to use version 2",
    "bad_type": "not an advertisement: its sender uses protocol 112 for something else",
    "bad_vhid": "no virtual host here has this vhid and an address of this family: missing in "
    "this configuration, or the sender belongs to another segment",
    "bad_destination": "sent to another group, or as unicast: compare destination, destination6 "
    "and peers on both hosts",
    "bad_auth": "another passphrase or other signed addresses: "
    "try carp-fast dump -i {interface} -c FILE",
    "loop": "our own advertisement came back: a bridge, bond or switch returns what we send",
    "replay": "its counter was heard before: recorded and sent again, or its sender has restarted "
    'its counter and replay = "{replay}" waits for proof',
}

WARNING_HINTS = {
    "duplicate_source": "give each host a source of its own, or find out which machine was cloned",
    "other_master": "it may be MASTER, too, since it refuses what we send: try carp-fast dump -i "
    "{interface} -c FILE",
    "bad_auth": "it may be MASTER, too, since it refuses what the master sends: try carp-fast dump "
    "-i {interface} -c FILE",
    "second_master": "if it goes on advertising, it does not hear the other one, or refuses its "
    "advertisements: look for a network that passes frames in one direction only, and compare "
    "passphrase and addresses on both hosts",
}

# For each form of a digest over link-local addresses: which systems accept it.
FORM_MEANINGS = {
    "with": "its digest includes link-local {link_local}, as in FreeBSD and NetBSD; OpenBSD "
    "refuses it, since its carp interface has {automatic}, too: if another host runs OpenBSD, set "
    'dialect = "openbsd" here',
    "without": "its digest leaves out link-local {link_local}, as OpenBSD's does: FreeBSD and "
    "NetBSD refuse it, and both would be MASTER",
    "automatic": "its digest includes link-local {link_local} and {automatic}, which OpenBSD's "
    "carp interface has, too: FreeBSD and NetBSD refuse it, and both would be MASTER",
    "plain": "its digest includes link-local {link_local}, as in every system",
}

DEMOTION_MEANINGS = {
    "address_lost": "another program kept removing an address; undone after a minute, or more each"
    " time",
    "address_deadline": "it was MASTER without any address for address_deadline_s; undone after a"
    " minute, or more each time",
    "operator": "it was ordered",
    "track": "something that it tracks failed",
    "group": "a member of its group cannot be MASTER here",
    "maintenance": "this host is in maintenance",
    "link": "it has no link, interface or source, and sends nothing",
    "send_errors": "no advertisement could be sent for an interval; undone after three are, as "
    "BACKUP after a minute, or more each time",
}


def seconds(value: float) -> str:
    return f"{value:.3f} s" if value < 60 else in_two_units(value)


def in_two_units(seconds: float) -> str:
    """A time in its two largest units: "3h 12m"."""
    whole = max(0, int(seconds))
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    return f"{minutes}m {whole % 60}s" if minutes else f"{whole}s"
