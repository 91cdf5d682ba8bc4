"""Units that start ucarp, as `carp-fast import` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carp_fast.ucarp.importer import Imported, import_files


def found_in(tmp_path: Path, text: str, name: str) -> Imported:
    path = tmp_path / name
    path.write_text(text)
    return import_files([path], running=False)


def table(found: Imported) -> dict[str, Any]:
    [(_, only)] = found.tables
    return only


def unit(*lines: str) -> str:
    return "\n".join(("[Unit]", "Description=ucarp -i eth9 -v 9", "[Service]", *lines)) + "\n"


@pytest.mark.parametrize(
    ("start", "passphrase"),
    [
        ("-p 'a b'", "a b"),
        ('-p "a \\"b"', 'a "b'),
        ("-p a\\x41\\s\\101", "aA A"),
        ("-p 'a\\tb'", "a\tb"),
        ("-p a%%b", "a%b"),
        ("-p a$$b", "a$b"),
        ("-p a$b", "a$b"),
        ("-p a#b", "a#b"),
        ("-p ${SECRET}", "s e"),
        ("-p x$SECRET", "x$SECRET"),
        ("-p $WORDS", "one"),
        ("\\\n  -p \\\n# a comment\n  x", "x"),
        ("-p x ; /usr/bin/true -p y", "x"),
    ],
)
def test_a_unit_is_read_as_systemd_reads_it(tmp_path: Path, start: str, passphrase: str) -> None:
    text = unit(
        'Environment="SECRET=s e" WORDS="one -P"',
        f"ExecStart=-/usr/sbin/ucarp -i eth0 -s 10.0.0.1 -v 1 -a 10.0.0.9 {start}",
        "ExecStop=/usr/sbin/ucarp -i eth1 -v 2",
    )
    found = found_in(tmp_path, text, "ucarp.service")
    assert found.lost == []
    assert table(found)["passphrase"] == passphrase
    assert table(found)["preempt"] is ("WORDS" in start)


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ("-i %i -p x", "%i is filled in by systemd; give it its value"),
        ("-i %I -p x", "%I is filled in by systemd; give it its value"),
        ("-i eth0 -p ${NONE}", "$NONE is not known; give it its value"),
        ("-i eth0 $OPTIONS", "$OPTIONS is not known; give it its value"),
        ("-i eth0 -p a\\qb", "\\q is an escape that systemd refuses"),
        ("-i eth0 -p 'a", "a quote does not close"),
    ],
)
def test_what_systemd_fills_in_is_named(tmp_path: Path, start: str, why: str) -> None:
    found = found_in(tmp_path, unit(f"ExecStart=/usr/sbin/ucarp {start}"), "ucarp.service")
    assert found.tables == []
    assert found.lost == [f"{tmp_path / 'ucarp.service'}:4: not translated: {why}"]


def test_a_shell_in_a_unit_is_a_shell(tmp_path: Path) -> None:
    start = 'ucarp -i eth0 -s 10.0.0.1 -v 1 -a 10.0.0.9 -p \\"S3\\\\$$k\\"'
    found = found_in(tmp_path, unit(f'ExecStart=/bin/sh -c "exec {start}"'), "ucarp.service")
    assert (found.lost, table(found)["passphrase"]) == ([], "S3$k")
