"""The line of each fault: of its key, or of its table where the key is missing."""

from __future__ import annotations

import os
import re
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.config.lines import Lines, scan
from carp_fast.config.load import ConfigurationError, load
from carp_fast.config.model import Fault
from tests.support.configurations import HOST, host, write


def places(path: Path) -> list[str]:
    """Each fault of a configuration up to its text: "carp.toml:5: virtual_host[1]: vhid"."""
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    return [
        ": ".join([f"{Path(each.file).name}:{each.line}", *filter(None, (each.table, each.key))])
        for each in caught.value.faults
    ]


def places_of(directory: Path, text: str) -> list[str]:
    return places(write(directory, text))


def test_a_fault_begins_with_file_and_line_as_editors_and_compilers_have_it(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, HOST.replace("vhid = 7", "vhid = 300"))
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:4: virtual_host[1]: vhid = 300: must be")


KINDS: dict[str, tuple[str, list[str]]] = {
    "a bad value": (HOST + "advskew = 255\n", ["carp.toml:7: virtual_host[1]: advskew"]),
    "an unknown key": (HOST + "\n#\ncolour = 1\n", ["carp.toml:9: virtual_host[1]: colour"]),
    "a missing key": (host(passphrase=""), ["carp.toml:2: virtual_host[1]: passphrase"]),
    "the second table": (HOST + host(vhid="0"), ["carp.toml:10: virtual_host[2]: vhid"]),
    "a key of defaults": ("\n[defaults]\nadvbase = 256" + HOST, ["carp.toml:3: defaults: advbase"]),
    "a key of daemon": ("[daemon]\n\nrecord = -1" + HOST, ["carp.toml:3: daemon: record"]),
    "a dotted key": ("daemon.record = -1\n" + HOST, ["carp.toml:1: daemon: record"]),
    "an inline table": ("daemon = {record = -1}\n" + HOST, ["carp.toml:1: daemon: record"]),
    "a key of announce": (
        HOST + "announce = {count = -1}\n", ["carp.toml:7: virtual_host[1]: announce.count"]
    ),
    "a dotted announce": (
        HOST + "announce.count = -1\n", ["carp.toml:7: virtual_host[1]: announce.count"]
    ),
    "announce as a table": (
        HOST + "[virtual_host.announce]\n\ncount = -1\n",
        ["carp.toml:9: virtual_host[1]: announce.count"],
    ),
    "an item of a list": (
        host(addresses='[\n"192.0.2.1/24",\n"nonsense",\n]'),
        ["carp.toml:5: virtual_host[1]: addresses"],
    ),
    "after strings that look like tables": (
        HOST + 'xparam = """\n[[virtual_host]]\nvhid = 3\n"""\nadvskew = 255\n',
        ["carp.toml:11: virtual_host[1]: advskew"],
    ),
    "after a literal string": (
        HOST + "xparam = '''\n[[virtual_host]]\n''''\n" + host(vhid="0"),
        ["carp.toml:13: virtual_host[2]: vhid"],
    ),
    "a quoted key": (HOST + '"odd key" = 1\n', ['carp.toml:7: virtual_host[1]: "odd key"']),
    "quoted tables": (
        HOST.replace("[[virtual_host]]", '[[ "virtual_host" ]]').replace("= 7", "= 0"),
        ["carp.toml:4: virtual_host[1]: vhid"],
    ),
    "an array of inline tables": (
        'virtual_host = [\n{interface = "eth0", vhid = 0, addresses = "10.0.0.1/24", '
        'passphrase = "x"},\n]\n',
        ["carp.toml:1: virtual_host[1]: vhid"],
    ),
    "an unknown table": ("\n[demon]\nrecord = 1\n" + HOST, ["carp.toml:2: demon"]),
    "a key at the top": ("\nrecord = 1\n" + HOST, ["carp.toml:2: top level: record"]),
    "an include": ('\ninclude = "none.toml"\n' + HOST, ["carp.toml:2: top level: include"]),
    "not an array of tables": ("\n[virtual_host]\nvhid = 1\n", ["carp.toml:2: virtual_host"]),
    "not TOML": (HOST + "this is\n", ["carp.toml:7"]),
    "not TOML at its end": (HOST + 'xparam = """\n\n', ["carp.toml:7"]),
    "a table twice": ("[daemon]\n[defaults]\n[daemon]\n", ["carp.toml:3"]),
    "twice the same virtual host": (HOST + host(), ["carp.toml:10: virtual_host[2]: vhid"]),
    "a source that is virtual": (
        host(source='"192.0.2.10"'), ["carp.toml:7: virtual_host[1]: source"]
    ),
    "keys that exclude each other": (
        host(peers='["192.0.2.9"]', broadcast="true"), ["carp.toml:8: virtual_host[1]: broadcast"]
    ),
    "two passphrases": (
        host(passphrase_file='"x"'), ["carp.toml:7: virtual_host[1]: passphrase_file"]
    ),
    "Windows line ends": (
        HOST.replace("\n", "\r\n").replace("= 7", "= 0"), ["carp.toml:4: virtual_host[1]: vhid"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_has_its_line(tmp_path: Path, kind: str) -> None:
    text, expected = KINDS[kind]
    assert places_of(tmp_path, text) == expected


def test_bytes_that_are_not_utf8_have_the_line_of_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, HOST)
    path.write_bytes(HOST.encode() + b"# \xff\n")
    assert places(path) == ["carp.toml:7"]


def test_what_cannot_be_read_has_no_line(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: cannot be read: No such file or directory"


def test_a_virtual_host_in_two_files_names_both_lines(tmp_path: Path) -> None:
    write(tmp_path, "\n\n" + HOST, "conf.d/a.toml")
    b = write(tmp_path, HOST.replace("eth0", "eth1") + host(), "conf.d/b.toml")
    path = write(tmp_path, 'include = "conf.d/*.toml"\n')
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{b}:10: virtual_host[2]: vhid = 7: eth0/7 with destination 224.0.0.18 exists in"
        f" {tmp_path}/conf.d/a.toml:4: virtual_host[1]; allowed: one virtual host for each"
        " interface, destination and vhid"
    )


def test_an_address_in_two_files_is_a_warning_with_both_lines(tmp_path: Path) -> None:
    a = write(tmp_path, HOST, "conf.d/a.toml")
    b = write(tmp_path, "# b\n" + host(vhid="8"), "conf.d/b.toml")
    (line,) = load(write(tmp_path, 'include = "conf.d/*.toml"\n')).warnings
    assert line.startswith(f"{b}:6: virtual_host[1]: addresses = ")
    assert f"({a}:2: virtual_host[1])" in line


def test_a_configuration_from_a_pipe_has_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path, 0o600)
    text = HOST.replace("vhid = 7", "vhid = 300")
    writer = threading.Thread(target=path.write_text, args=(text,), daemon=True)
    writer.start()
    assert places(path) == ["pipe:4: virtual_host[1]: vhid"]
    writer.join(10)


def test_a_fault_whose_file_has_changed_keeps_the_line_of_its_table(tmp_path: Path) -> None:
    fault = Fault(str(tmp_path / "gone"), "virtual_host[1]", "vhid", "7", "no", 3)
    assert Lines().of(fault) == fault
    path = write(tmp_path, "[[[ no longer TOML")
    assert Lines().of(Fault(str(path), "virtual_host[1]", "vhid", "7", "no", 3)).line == 3


def test_a_large_file_is_scanned_quickly() -> None:
    count = 65_280
    text = "\n".join(
        f'[[virtual_host]]\ninterface = "vlan{n % 256}"\nvhid = {n % 255 + 1}\n'
        f'addresses = ["10.0.{n % 256}.1/24"]\n'
        for n in range(count)
    )
    begun_s = time.process_time()
    lines = scan(text)
    assert time.process_time() - begun_s < 20
    assert lines[f"virtual_host[{count}].addresses"] == 5 * count - 1


# A document and the line of every key in it, made of pieces.

TEXTS = st.sampled_from(
    ["1", "1.5", "true", '"a # b"', "'it''", '"""x\n[[t]]\n""\\"\n"""', "'''\n[y]\n'''", "[]",
     "[1, # ]\n 2,\n]", '["a]", \'[b\', """\n]"""]', "{a = 1, b = [1,\n2]}", "2026-01-01T00:00:00Z",
     '"\\"="', "[[1], [[2]]]", "{}"]
)  # fmt: skip
KEYS = st.sampled_from(["a", "b-c", '"d e"', "'f'", "g . h", '"=".x', '"[[i]]"'])
HEADERS = st.sampled_from(["[one]", "[[many]]", "[ two . three ]", '[["q r"]]', "[many.sub]"])
BETWEEN = st.sampled_from(["", "\n", "# [no]\n", "  \n\t\n", "# a = 1\n\n"])


@given(st.lists(st.tuples(BETWEEN, HEADERS | st.none(), st.lists(st.tuples(KEYS, TEXTS, BETWEEN)))))
def test_the_scan_finds_what_the_parser_finds(pieces: list[Any]) -> None:
    text = ""
    expected: set[int] = set()
    for before, header, keys in pieces:
        more = before + (f"{header} # begins\n" if header else "")
        more_lines = set()
        for key, value, between in keys:
            more += between
            more_lines.add((text + more).count("\n") + 1)
            more += f"{key} = {value} # ends\n"
        try:
            tomllib.loads(text + more)
        except tomllib.TOMLDecodeError:
            continue
        text, expected = text + more, expected | more_lines
    lines = scan(text)
    found = set(lines.values())
    assert expected <= found
    numbered = text.split("\n")
    assert all(re.search(r"[=\]]", numbered[line - 1]) for line in found)
