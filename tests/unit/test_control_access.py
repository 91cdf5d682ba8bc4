"""Which command reads and which changes something: every one is classified, and documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from carp_fast.control import connections, places, protocol, requests, server
from carp_fast.control.access import CHANGES, READS
from carp_fast.control.requests import MaintenanceRequest, Request
from carp_fast.daemon.requests import ACCESS, COMMANDS, Requests

DOCUMENTED = (Path(__file__).parent.parent.parent / "docs" / "control.md").read_text()
CLASSES = {
    each
    for each in vars(requests).values()
    if isinstance(each, type) and issubclass(each, Request) and each is not Request
}


def test_every_request_is_classified() -> None:
    assert set(ACCESS) == CLASSES
    assert {*COMMANDS.values(), requests.EventsRequest} == CLASSES
    for command, kind in COMMANDS.items():
        assert kind.__struct_config__.tag == command


def test_the_daemons_handlers_have_their_class() -> None:
    handlers = Requests().handlers
    assert {name: each.access for name, each in handlers.items()} == {
        name: ACCESS[kind] for name, kind in COMMANDS.items()
    }
    assert ACCESS[requests.EventsRequest] == server.EVENTS_ACCESS


@pytest.mark.parametrize("kind", sorted(CLASSES, key=str))
def test_an_argument_that_decides_exists_with_its_values(kind: type[Request]) -> None:
    access = ACCESS[kind]
    if access.argument:
        values = get_args(get_type_hints(kind)[access.argument])
        assert set(access.reading) < set(values)
    else:
        assert access in (READS, CHANGES)


@pytest.mark.parametrize(
    ("action", "changes"), [("on", True), ("off", True), ("plan", False), ("show", False)]
)
def test_maintenance_changes_something_by_its_action(action: str, changes: bool) -> None:
    access = ACCESS[MaintenanceRequest]
    assert access.changes(MaintenanceRequest(action)) == changes  # type: ignore[arg-type]


def test_a_request_with_wrong_arguments_counts_as_a_change_where_the_command_may_make_one() -> None:
    changing = {kind for kind, access in ACCESS.items() if access.changes(None)}
    assert changing == {kind for kind, access in ACCESS.items() if access != READS}


def documented() -> dict[str, str]:
    """By form of a command, the cells of its row: those who may give it."""
    rows: dict[str, str] = {}
    for forms, *cells in re.findall(
        r"^\| (`.+`) \| (.+) \| (.+) \| (.+) \|$", DOCUMENTED, re.MULTILINE
    ):
        for form in re.findall("`([^`]+)`", forms):
            rows[form] = ", ".join(cells)
    return rows


def test_the_table_of_the_documentation_is_that_of_the_program() -> None:
    rows = documented()
    assert rows.pop("watch") == rows["overview"] == rows["explain"], "it is made of both"
    expected = {}
    for kind, access in ACCESS.items():
        command = str(kind.__struct_config__.tag)
        reading = access.readable(command)
        every = [command]
        if access.argument:
            values = get_args(get_type_hints(kind)[access.argument])
            every = [f"{command} {value}" for value in values]
        for form in every:
            expected[form] = "yes, yes, no" if form in reading else "yes, audited, no, no"
    assert {form: row for form, row in rows.items() if "yes" in row} == expected


def test_the_codes_and_limits_of_the_documentation_are_those_of_the_program() -> None:
    codes = ("NOT_PERMITTED", "USER_LIMIT", "TOO_MANY_CLIENTS", "UPGRADED", "INTERNAL")
    for name in codes:
        assert f"| `{getattr(protocol, name)}` |" in DOCUMENTED
    limits = {
        **{name: value for name, value in vars(places).items() if name.startswith("CLIENTS_")},
        **{
            name: getattr(connections, name)
            for name in ("REQUEST_IDLE_S", "ANSWER_STALL_S", "EVENTS_QUEUED_MAX")
        },
        "LINE_BYTES_MAX": server.LINE_BYTES_MAX,
    }
    for name, value in limits.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", DOCUMENTED, re.MULTILINE)
        assert re.search(rf"\b{value:,g}\b", row) or f" {value:,}" in row, row
