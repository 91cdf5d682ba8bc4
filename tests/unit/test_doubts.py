"""Warnings about what a configuration may mean, but seldom does: once a table for each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.configurations import TABLE, host, read, write

from carp_fast.config import load

OPENBSD = (
    'is link-local: in dialect "ucarp" a digest holds it as FreeBSD and NetBSD sign it, and OpenBSD'
    ' refuses that, so that both would be MASTER; allowed: dialect "openbsd" where another host is'
    " OpenBSD"
)


def warnings(directory: Path, **keys: str) -> list[str]:
    path = write(directory, host(**keys))
    return [line.replace(str(path), "FILE") for line in load(path).warnings]


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
