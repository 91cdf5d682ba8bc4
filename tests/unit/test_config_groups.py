"""The [[group]] tables of a configuration: what they become, and every fault of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from carp_fast.config.model import Group
from carp_fast.config.rules import NAME_LENGTH_MAX
from carp_fast.daemon import groups, reload
from carp_fast.daemon.table import Hosts
from tests.support.configurations import (
    HOST,
    TABLE,
    fault_lines,
    host,
    read,
    warning_lines,
    write,
)

USES = HOST + 'group = "lan"\n'
LAN = '[[group]]\nname = "lan"\n'
NAME = f"must be 1 to {NAME_LENGTH_MAX} printable characters"


def test_virtual_hosts_share_the_group_that_they_name(tmp_path: Path) -> None:
    wan = host(vhid="8", addresses='"192.0.2.8/24"', group='"wan"')
    text = USES + wan + host(vhid="9", addresses='"192.0.2.9/24"')
    text += LAN + '[[group]]\nname = "wan"\ndemote_when = "all"\n'
    found = read(tmp_path, text)
    assert found.warnings == ()
    in_groups = [each.settings.group for each in found.virtual_hosts]
    assert in_groups == [Group("lan", "any"), Group("wan", "all"), None]


def test_a_group_may_stand_in_an_included_file_and_be_named_in_defaults(tmp_path: Path) -> None:
    write(tmp_path, LAN, "more.toml")
    text = 'include = "more.toml"\n[defaults]\ngroup = "lan"\n' + HOST + host(vhid="8", group='""')
    found = read(tmp_path, text)
    assert [each.settings.group for each in found.virtual_hosts] == [Group("lan"), None]


FAULTS: dict[str, tuple[str, list[str]]] = {
    "a group that is misspelt": (
        USES + '[[group]]\nname = "lab"\n[[group]]\nname = "outside"\n',
        [f'{TABLE}group = "lan": is the name of no [[group]]; the nearest is "lab"'],
    ),
    "a group without any table": (
        USES,
        [
            f'{TABLE}group = "lan": is the name of no [[group]]; there is none; allowed: a table'
            ' [[group]] with this name, or ""'
        ],
    ),
    "two groups of one name": (
        USES + LAN + LAN,
        ['FILE: group[2]: name = "lan": exists in FILE: group[1]; allowed: a name for each group'],
    ),
    "no name": (HOST + "[[group]]\n", ["FILE: group[1]: name = (missing): must be given"]),
    "an empty name": (HOST + '[[group]]\nname = ""\n', [f'FILE: group[1]: name = "": {NAME}']),
    "a name that is not text": (HOST + "group = 1\n", [f"{TABLE}group = 1: {NAME}"]),
    "another rule": (
        USES + LAN + 'demote_when = "most"\n',
        ['FILE: group[1]: demote_when = "most": must be "any" or "all"'],
    ),
    "an unknown key": (
        USES + LAN + 'demote_wen = "all"\n',
        [
            'FILE: group[1]: demote_wen = "all": unknown key; the nearest known one is demote_when',
        ],
    ),
    "not an array": (
        HOST + '[group]\nname = "lan"\n',
        ["FILE: group: is not an array of tables; allowed: tables that begin [[group]]"],
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_groups(case: str, tmp_path: Path) -> None:
    text, expected = FAULTS[case]
    assert fault_lines(write(tmp_path, text)) == expected


def test_a_group_that_nobody_names_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path, USES + LAN + '[[group]]\nname = "wan"\n')
    found = read(tmp_path, path.read_text())
    assert warning_lines(path, found.warnings) == [
        'FILE: group[2]: name = "wan": no virtual host names it in its key group, so it does'
        " nothing"
    ]


def test_a_group_and_its_rule_change_in_place(tmp_path: Path) -> None:
    before = read(tmp_path, USES + LAN)
    hosts = Hosts()
    for each in before.virtual_hosts:
        hosts.take(each)
    after = read(tmp_path, USES + LAN + 'demote_when = "all"\n')
    difference = reload.compare(hosts, after)
    assert [slot for slot, _, _ in difference.replaced] == [0]
    assert list(difference.keys) == ["group"]


def test_the_engine_has_a_number_for_each_group_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "GROUPS_MAX", 2)
    known = groups.Groups()
    assert [known.number(name) for name in ("lan", "wan", "lan")] == [1, 2, 1]
    assert known.name(2) == "wan"
    with pytest.raises(groups.LimitReached, match="more than 2 groups in one run"):
        known.number("dmz")
