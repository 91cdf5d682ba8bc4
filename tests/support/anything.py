"""Transcripts in which anything may come, drawn by seed, for virtual hosts eth0/1 to eth0/3."""

from __future__ import annotations

from random import Random


def anything(random: Random, seconds: int) -> str:
    """A transcript in which anything may come, often at the same time."""
    hosts = ("eth0/1", "eth0/2", "eth0/3")
    heard = "{host} hear 10.0.0.{n} {advbase}/{advskew} counter {counter} demote {demote}"
    choices = (
        *([heard] * 12),
        "{host} hear 10.0.0.{n} {verdict}",
        "eth0/3 hear fe80::{n} {advbase}/{advskew}",
        "{host} hear 10.0.0.1 255/255 counter {counter}",
        "{host} demote {demote}",
        "{host} kernel sends {error}",
        "{host} kernel sends ENOBUFS 1",
        "{host} kernel 10.0.1.1 {error}",
        "{host} found 10.0.1.1 {there}",
        "{host} address_lost",
        "{host} address_lost undemoted",
        "{host} announce",
        "{host} yield",
        "{host} yield maintenance",
        "{host} preempt",
        "{host} withhold {yes}",
        "{host} demote {demote} maintenance",
        "eth0 link {up}",
        "stall",
        "stall {since} 2.5",
        "drop",
        "drop {since}",
        "away",
    )
    lines, at_ms = [], 0
    while at_ms < seconds * 1000:
        at_ms += random.choice((0, 0, 1, 20, 300, 900, 3000))
        line = random.choice(choices).format(
            host=random.choice(hosts),
            n=random.choice((1, 2, 3, 9)),
            advbase=random.choice((1, 1, 1, 0)),
            advskew=random.choice((0, 50, 100, 240)),
            counter=random.choice((at_ms + 1, at_ms + 1, 1, 2, 3, random.randrange(2**64))),
            demote=random.choice((0, 0, 1, 2)),
            verdict=random.choice(("bad_auth", "bad_ttl", "vrrp")),
            error=random.choice(("ok", "ok", "EEXIST", "EACCES")),
            there=random.choice(("none", "none", "ours", "foreign", "somebodys", "unknown")),
            up=random.choice(("up", "down")),
            yes=random.choice(("yes", "no", "no")),
            since=max(0, at_ms - random.choice((1, 900, 1500, 5000))) / 1000,
        )
        lines.append(f"{at_ms / 1000:.3f} {line}")
        if line == "away":  # a pump that was away says so when it is back
            at_ms += 5000
            lines.append(f"{at_ms / 1000:.3f} stall")
    return "\n".join((*lines, f"{at_ms / 1000 + 1:.3f} end"))
