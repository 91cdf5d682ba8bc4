"""IPv4 addresses held by local routes: the kind goes with each request, and with what is held."""

from __future__ import annotations

from errno import EADDRNOTAVAIL, EEXIST, EPERM
from typing import Any

import pytest

from carp_fast.engine.reports import AddressForeign, AddressRestored
from tests.support.addressed import (
    EVERY,
    LATER_NS,
    MASTER_NS,
    SIGNED,
    UNSIGNED,
    contents,
    host,
    master,
    step_down,
)
from tests.support.segment import SECOND_NS, Node, ip, prepared

SIX = ip("2001:db8::1")


def router(errors: dict[bytes, int] | None = None, **settings: Any) -> Node:
    """A node that just became MASTER and holds its addresses by routes."""
    return master(errors, by_route=True, **settings)


def routed(node: Node) -> tuple[int, bool]:
    """How many addresses it holds, and whether by routes."""
    status = node.engine.host(0)
    return status.held, status.holds_routes


def later(node: Node) -> Node:
    """The same, settled for long."""
    node.run(LATER_NS)
    node.forget()
    return node


def test_ipv4_addresses_come_and_go_as_routes() -> None:
    node = router()
    assert contents(node, "ADD_ROUTES") == [EVERY]
    assert routed(node) == (3, True)
    later(node)
    step_down(node, LATER_NS)
    assert contents(node, "REMOVE_ROUTES") == [EVERY]
    assert contents(node, "ADD_ADDRESSES") == contents(node, "REMOVE_ADDRESSES") == []
    assert routed(node) == (0, False)


def test_ipv6_addresses_stay_addresses() -> None:
    node = Node("10.77.0.2", on6="fe80::2", by_route=True, addresses=[*SIGNED, (SIX, 64)])
    node.run(MASTER_NS)
    assert contents(node, "ADD_ADDRESSES") == [[SIX]]
    assert contents(node, "ADD_ROUTES") == [[data for data, _ in SIGNED]]
    later(node)
    node.engine.resign_all(LATER_NS)
    node.take(LATER_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [[SIX]]
    assert contents(node, "REMOVE_ROUTES") == [[data for data, _ in SIGNED]]


def test_an_order_replaces_the_routes_of_a_master_by_addresses() -> None:
    node = later(router())
    node.engine.set_by_route(0, False, LATER_NS)
    node.take(LATER_NS)
    assert node.words() == ["REMOVE_ROUTES", "ADD_ADDRESSES"]
    assert routed(node) == (3, False)
    assert not node.engine.host(0).by_route
    assert node.reported(AddressRestored) == []
    node.run(LATER_NS + SECOND_NS)
    step_down(node, LATER_NS + SECOND_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [EVERY]


def test_an_order_for_routes_converts_nothing_that_is_held() -> None:
    node = later(master())
    node.engine.set_by_route(0, True, LATER_NS)
    node.take(LATER_NS)
    assert (node.words(), routed(node)) == ([], (3, False))
    step_down(node, LATER_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [EVERY]
    node.forget()
    node.run(LATER_NS + 30 * SECOND_NS)
    assert contents(node, "ADD_ROUTES") == [EVERY]


def test_a_route_that_cannot_be_removed_is_replaced_once_it_is_gone() -> None:
    node = later(router())
    node.errors = {EVERY[1]: EPERM}
    node.engine.set_by_route(0, False, LATER_NS)
    node.take(LATER_NS)
    assert routed(node) == (3, True)
    node.errors = {}
    node.run(LATER_NS + SECOND_NS)
    assert routed(node) == (3, False)
    assert contents(node, "ADD_ADDRESSES") == [[EVERY[0], EVERY[2]], [EVERY[1]]]


def test_routes_asked_for_when_the_order_comes_are_replaced_too() -> None:
    node = Node("10.77.0.2", **host(by_route=True))
    node.busy = True
    node.run(MASTER_NS)
    assert contents(node, "ADD_ROUTES") == [EVERY]
    node.engine.set_by_route(0, False, MASTER_NS)
    node.answer(MASTER_NS)
    assert contents(node, "REMOVE_ROUTES") == [EVERY]
    assert contents(node, "ADD_ADDRESSES") == [EVERY]
    assert routed(node) == (3, False)


@pytest.mark.parametrize("before", [False, True])
def test_a_reload_converts_nothing_that_is_held(before: bool) -> None:
    node = later(master(by_route=before))
    node.engine.replace(0, prepared(**host(by_route=not before)), LATER_NS)
    node.take(LATER_NS)
    assert (node.words(), routed(node)) == ([], (3, before))
    step_down(node, LATER_NS)
    assert contents(node, "REMOVE_ROUTES" if before else "REMOVE_ADDRESSES") == [EVERY]
    node.forget()
    node.run(LATER_NS + 30 * SECOND_NS)
    assert contents(node, "ADD_ADDRESSES" if before else "ADD_ROUTES") == [EVERY]


def test_a_route_stays_where_only_the_prefix_length_changes() -> None:
    node = later(router())
    wider = [(data, 16) for data, _ in SIGNED]
    changed = prepared(
        addresses=wider, unsigned_addresses=UNSIGNED, retired_addresses=SIGNED, by_route=True
    )
    node.engine.replace(0, changed, LATER_NS)
    node.take(LATER_NS)
    assert (node.words(), routed(node)) == ([], (3, True))
    step_down(node, LATER_NS)
    (removed,) = contents(node, "REMOVE_ROUTES")
    assert isinstance(removed, list)
    assert sorted(removed) == sorted(EVERY)


def test_a_route_that_is_gone_is_added_again_announced_and_counted() -> None:
    node = later(router())
    node.engine.found(0, EVERY[1], "none", LATER_NS)
    node.take(LATER_NS)
    assert [(r.why, r.address) for r in node.reported(AddressRestored)] == [("route", 1)]
    assert node.words() == ["ADD_ROUTES", "ANNOUNCE"]
    assert node.engine.host(0).counters["addresses_restored"] == 1


def test_a_route_found_on_a_backup_is_removed_as_a_route() -> None:
    node = later(router())
    step_down(node, LATER_NS)
    node.forget()
    node.engine.found(0, EVERY[0], "route", LATER_NS)
    node.take(LATER_NS)
    assert contents(node, "REMOVE_ROUTES") == [[EVERY[0]]]
    assert contents(node, "REMOVE_ADDRESSES") == []


def test_a_former_route_besides_the_address_is_removed() -> None:
    node = later(master())
    node.engine.found(0, EVERY[0], "route", LATER_NS)
    node.take(LATER_NS)
    assert node.words() == ["REMOVE_ROUTES", "ADD_ADDRESSES"]
    assert routed(node) == (3, False)


def test_a_route_to_an_address_that_another_program_has_is_left_alone() -> None:
    node = router({EVERY[0]: EEXIST})
    assert [report.address for report in node.reported(AddressForeign)] == [0]
    assert routed(node) == (2, True)
    later(node)
    node.errors = {}
    node.engine.found(0, EVERY[0], "none", LATER_NS)
    node.take(LATER_NS)
    assert routed(node) == (3, True)


def test_a_route_that_went_with_the_last_address_is_gone_when_it_is_removed() -> None:
    node = later(router({}))
    node.errors = dict.fromkeys(EVERY, EADDRNOTAVAIL)
    step_down(node, LATER_NS)
    assert routed(node) == (0, False)


def test_an_address_that_is_adopted_is_no_route_whatever_it_was() -> None:
    node = later(router())
    step_down(node, LATER_NS)
    node.forget()
    node.engine.adopt(0, *SIGNED[0], LATER_NS)
    node.take(LATER_NS)
    assert contents(node, "REMOVE_ADDRESSES") == [[EVERY[0]]]
    assert contents(node, "REMOVE_ROUTES") == []


def test_the_kind_survives_a_checkpoint() -> None:
    node = later(router())
    node.engine.set_by_route(0, True, LATER_NS)
    node.engine.replace(0, prepared(**host(by_route=False)), LATER_NS)
    node.engine.found(0, EVERY[2], "none", LATER_NS)
    node.take(LATER_NS)  # of three addresses two are routes, and the last is an address now
    recorded = node.engine.checkpoint(0, LATER_NS)
    addresses = [(data, ["held", "routed"]) for data in EVERY[:2]]
    other = Node("10.77.0.2", **host(by_route=False))
    other.engine.assume(0, {**recorded["state"], "addresses": addresses}, LATER_NS)
    for one in (node, other):
        one.forget()
        step_down(one, LATER_NS)
        assert contents(one, "REMOVE_ROUTES") == [EVERY[:2]]
        assert contents(one, "REMOVE_ADDRESSES") == [EVERY[2:]]
