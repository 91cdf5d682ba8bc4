"""Warnings about what a configuration may mean, but seldom does: once a table for each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from carp_fast.config.load import load
from tests.support.configurations import TABLE, host, read, warning_lines, write

OPENBSD = (
    'is link-local: in dialect "ucarp" it is signed as FreeBSD and NetBSD sign it, and OpenBSD'
    ' refuses that digest, so both hosts would be MASTER; allowed: dialect "openbsd" where another'
    " host runs OpenBSD"
)


def warnings(directory: Path, **keys: str) -> list[str]:
    path = write(directory, host(**keys))
    return warning_lines(path, load(path).warnings)


def test_a_link_local_address_in_a_digest_of_dialect_ucarp(tmp_path: Path) -> None:
    addresses = '["192.0.2.{vhid}/24", "fe80::{vhid}/64", "fe80::ff:{vhid}/64"]'
    assert warnings(tmp_path, vhid='"7-9"', addresses=addresses) == [
        f'{TABLE}addresses = "fe80::7/64": of eth0/7 {OPENBSD} (and 5 more in this table)'
    ]
    (line,) = warnings(tmp_path, addresses='"fe80::1/64"')
    assert line == f'{TABLE}addresses = "fe80::1/64": of eth0/7 {OPENBSD}'


@pytest.mark.parametrize("dialect", ["freebsd", "openbsd"])
def test_a_dialect_that_was_chosen_for_it_is_not_doubted(tmp_path: Path, dialect: str) -> None:
    made = read(tmp_path, host(dialect=f'"{dialect}"', addresses='"fe80::1/64"'))
    assert made.warnings == ()


def test_an_unsigned_link_local_address_is_not_doubted(tmp_path: Path) -> None:
    made = read(tmp_path, host(unsigned_addresses='"fe80::1/64"'))
    assert made.warnings == ()


ANYCAST = (
    "is the subnet-router anycast address of its prefix, for which every router there answers;"
    " allowed: another address of the prefix, or the prefix length 127 or 128"
)


@pytest.mark.parametrize(
    "address",
    ["2001:db8::/64", "2001:db8::100/120", "2001:db8::8/125", "2001:db8:0:1::/80", "2001::/16"],
)
def test_the_anycast_address_of_a_prefix(tmp_path: Path, address: str) -> None:
    for key in ("addresses", "unsigned_addresses"):
        keys = {"addresses": '"192.0.2.1/24"', key: f'"{address}"'}
        (line,) = warnings(tmp_path, **keys)
        assert line == f'{TABLE}{key} = "{address}": of eth0/7 {ANYCAST}'


@pytest.mark.parametrize(
    "address",
    ["2001:db8::1/64", "2001:db8::/127", "2001:db8::/128", "2001:db8::", "2001:db8::100/119"],
)
def test_an_address_of_a_host_is_not_doubted(tmp_path: Path, address: str) -> None:
    assert warnings(tmp_path, addresses=f'"{address}"') == []


def test_each_kind_of_doubt_is_told_once_a_table(tmp_path: Path) -> None:
    keys = {"interface": '"e[1-2]"', "vhid": '"8-9"', "unsigned_addresses": '"fe80::{vhid}0/124"'}
    lines = warnings(tmp_path, addresses='"{fe80::10+index}/128"', **keys)
    assert [line.partition("is ")[2][:30] for line in lines if "held by both" not in line] == [
        'link-local: in dialect "ucarp"',
        "the subnet-router anycast addr",
    ]
    assert all("of e1/8" in line and "(and 3 more in this table)" in line for line in lines[:2])
