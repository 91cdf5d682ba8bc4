"""A virtual host with two signed addresses and an unsigned one, and what becomes of them."""

from __future__ import annotations

from typing import Any

from tests.support.segment import ADDRESS, SECOND_NS, START_NS, Node, advertisement, ip

SIGNED = [(ADDRESS, 24), (ip("10.77.0.101"), 24)]
UNSIGNED = [(ip("10.77.1.1"), 32)]
EVERY = [data for data, _ in SIGNED + UNSIGNED]
MASTER_NS = START_NS + 3 * SECOND_NS
LATER_NS = START_NS + 20 * SECOND_NS


def host(**settings: Any) -> dict[str, Any]:
    return {"addresses": SIGNED, "unsigned_addresses": UNSIGNED} | settings


def master(errors: dict[bytes, int] | None = None, **settings: Any) -> Node:
    """A node that just became MASTER, its address changes answered with `errors`."""
    node = Node("10.77.0.2", **host(**settings))
    node.errors = errors or {}
    node.run(MASTER_NS)
    assert node.state == "MASTER"
    return node


def contents(node: Node, action: str) -> list[object]:
    return [done.content for done in node.done if done.action == action]


def step_down(node: Node, now_ns: int) -> None:
    frame = advertisement(advbase=0, advskew=1, addresses=[data for data, _ in SIGNED])
    assert node.engine.receive(0, frame, now_ns) == "ok"
    node.take(now_ns)
    assert node.state == "BACKUP"
