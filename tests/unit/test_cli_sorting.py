"""The order in which `status` lists virtual hosts, in its table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from carp_fast.cli import main as cli
from carp_fast.cli.sorting import KEYS, natural
from tests.support.answering import FakeDaemon, ago, host

PEER = {"advbase": 1, "advskew": 0, "heard_ago_s": 0.4}


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(tmp_path / "control.sock")
    daemon.hosts = [
        host(
            "eth10",
            2,
            "MASTER",
            since=ago(hours=2),
            reason="preempt",
            name="web2",
            addresses=["192.0.2.9/24"],
        ),
        host(
            "eth2",
            9,
            "BACKUP",
            since=ago(hours=1),
            reason="advertisement",
            name="web10",
            addresses=["192.0.2.20/24"],
            advskew=100,
            effective_advskew=240,
            demotion={"total": 240, "reasons": {"send_errors": 240, "track": 20}},
            peer={"source": "192.0.2.30", **PEER},
            segment="lan",
        ),
        host(
            "eth2",
            3,
            "INIT",
            since=ago(hours=3),
            reason="link_down",
            addresses=[],
            effective_advskew=20,
            demotion={"total": 20, "reasons": {"operator": 20}},
            peer={"source": "192.0.2.4", **PEER},
            segment="dmz",
            warnings={"bad_auth": "2", "duplicate_source": "x"},
        ),
    ]
    yield daemon
    daemon.stop()


def asked(fake: FakeDaemon, *arguments: str) -> Result:
    every = ["status", "--control-socket", str(fake.path), *arguments]
    return CliRunner().invoke(cli.main, every, prog_name="carp-fast")


def shown(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [line.split()[0] for line in result.stdout.splitlines() if line.startswith("eth")]


FIRST, SECOND, THIRD = "eth10/2", "eth2/9", "eth2/3"
ORDERS = {
    "interface": [THIRD, SECOND, FIRST],
    "vhid": [FIRST, THIRD, SECOND],
    "name": [FIRST, SECOND, THIRD],
    "state": [THIRD, SECOND, FIRST],
    "since": [SECOND, FIRST, THIRD],
    "reason": [SECOND, THIRD, FIRST],
    "addresses": [FIRST, SECOND, THIRD],
    "advskew": [FIRST, THIRD, SECOND],
    "demotion": [SECOND, THIRD, FIRST],
    "peer": [THIRD, SECOND, FIRST],
    "segment": [THIRD, SECOND, FIRST],
    "problems": [THIRD, SECOND, FIRST],
}


def test_every_key_has_a_case() -> None:
    assert ORDERS.keys() == KEYS.keys()


@pytest.mark.parametrize("key", KEYS)
def test_the_table_and_json_are_in_the_order_of_the_key(fake: FakeDaemon, key: str) -> None:
    assert shown(asked(fake, "--sort", key)) == ORDERS[key]
    document = json.loads(asked(fake, "--sort", key, "--json").stdout)
    every = document["virtual_hosts"]
    assert [f"{each['interface']}/{each['vhid']}" for each in every] == ORDERS[key]


def test_without_a_key_the_table_is_by_interface_and_json_as_the_daemon_wrote_it(
    fake: FakeDaemon,
) -> None:
    assert shown(asked(fake)) == ORDERS["interface"]
    assert json.loads(asked(fake, "--json").stdout)["virtual_hosts"] == fake.hosts


def test_sorted_json_keeps_what_this_version_does_not_know(fake: FakeDaemon) -> None:
    for each in fake.hosts:
        each["later"] = {"than": [each["vhid"], 1.50]}
    plain = json.loads(asked(fake, "--json").stdout)
    document = json.loads(asked(fake, "--sort", "vhid", "--json").stdout)
    assert list(document) == list(plain)
    assert document["summary"] == plain["summary"]
    assert document["virtual_hosts"] == [fake.hosts[0], fake.hosts[2], fake.hosts[1]]


def test_equal_ones_are_by_interface_and_vhid(fake: FakeDaemon) -> None:
    fake.hosts = [host(name, vhid, "BACKUP") for name in ("v10", "v9") for vhid in (10, 9)]
    for each in fake.hosts:
        each["since"] = fake.hosts[0]["since"]
    every = json.loads(asked(fake, "--sort", "since", "--json").stdout)["virtual_hosts"]
    names = [f"{each['interface']}/{each['vhid']}" for each in every]
    assert names == ["v9/9", "v9/10", "v10/9", "v10/10"]


def test_an_unknown_key_is_wrong_usage_and_the_allowed_are_listed(fake: FakeDaemon) -> None:
    result = asked(fake, "--sort", "age")
    assert result.exit_code == 2
    assert "'age' is not one of" in result.stderr
    assert all(repr(key) in result.stderr for key in KEYS)
    assert fake.requests == []


def test_a_host_that_does_not_fit_is_a_failure(fake: FakeDaemon) -> None:
    fake.hosts[0]["vhid"] = "two"
    result = asked(fake, "--sort", "vhid", "--json")
    assert result.exit_code == 1
    assert "an answer that this version does not know" in result.stderr


def test_numbers_in_names_are_compared_as_numbers() -> None:
    names = ["vlan100", "eth10", "eth2.30", "eth2", "7", "eth", "eth2.4"]
    wanted = ["7", "eth", "eth2", "eth2.4", "eth2.30", "eth10", "vlan100"]
    assert sorted(names, key=natural) == wanted
