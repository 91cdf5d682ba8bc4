"""Labels of virtual hosts: read from files, kept by every copy, shown wherever one is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from carp_fast.cli import main as cli
from carp_fast.cli.events import line_of
from carp_fast.config import image
from carp_fast.config.fingerprint import fingerprint
from carp_fast.config.load import Configuration, load_settled
from carp_fast.config.model import NO_LABELS, Labels, VirtualHost
from carp_fast.control.requests import ExplainRequest, StatusRequest
from carp_fast.daemon import explain_text
from carp_fast.daemon.reload import compare
from carp_fast.daemon.table import Hosts
from tests.support.answering import FakeDaemon
from tests.support.answering import host as answered
from tests.support.configurations import TABLE, fault_lines, host, read, write
from tests.support.desk import Desk
from tests.support.scene import Scene

FIELDS = "allowed in a label: {vhid}, {number}, {index}"
NAME = "must be 1 to 64 printable characters"
WEB = Labels("web", "the front end", "office")


def labels(configuration: Configuration) -> list[Labels]:
    return [each.labels for each in configuration.virtual_hosts]


# ------------------------------------------------------------------------------ in a configuration


def test_fields_are_filled_in_as_in_addresses(tmp_path: Path) -> None:
    table = host(
        interface='"vlan[08-09]"',
        vhid='"3-4"',
        addresses='"{10.0.0.1+index}/32"',
        name='"vip-{index}"',
        description='"\u00fcber {number}/{vhid}"',
        segment='"office-{number}"',
    )
    configuration = read(tmp_path, table)
    assert labels(configuration) == [
        Labels("vip-0", "\u00fcber 8/3", "office-8"),
        Labels("vip-1", "\u00fcber 8/4", "office-8"),
        Labels("vip-2", "\u00fcber 9/3", "office-9"),
        Labels("vip-3", "\u00fcber 9/4", "office-9"),
    ]
    assert [each.segment for each in configuration.virtual_hosts[::2]] == ["office-8", "office-9"]


def test_a_table_inherits_labels_and_may_have_none(tmp_path: Path) -> None:
    text = '[defaults]\nname = "vip-{vhid}"\nsegment = "office"\n' + host()
    text += host(vhid="8", addresses='"192.0.2.11/24"', name='""', segment='"lab"')
    found = read(tmp_path, text)
    assert labels(found) == [Labels("vip-7", "", "office"), Labels("", "", "lab")]
    (plain,) = read(tmp_path, host()).virtual_hosts
    assert plain.labels is NO_LABELS
    assert plain.segment == "eth0"


def test_virtual_hosts_of_a_table_share_constant_labels(tmp_path: Path) -> None:
    table = host(vhid='"1-9"', addresses='"10.0.0.{vhid}"', segment='"office"')
    assert len({id(each) for each in labels(read(tmp_path, table))}) == 1


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("name", "7", "must be a text of at most 64 printable characters"),
        ("name", '" "', NAME),
        ("name", f'"{"x" * 65}"', NAME),
        ("name", r'"a\nb"', NAME),
        ("segment", r'"a\tb"', NAME),
        ("description", f'"{"x" * 201}"', "must be 1 to 200 printable characters"),
        ("name", '"{vhid"', f"a brace has no partner; {FIELDS}"),
        ("name", '"{10.0.0.1+vhid}"', f'"{{10.0.0.1+vhid}}" is unknown; {FIELDS}'),
        ("name", '"{x}"', f'"{{x}}" is unknown; {FIELDS}'),
        (
            "segment",
            '"{number}"',
            '{number} needs an interface with a range, such as "vlan[100-163]"',
        ),
        ("name", f'"{"x" * 62}{{vhid}}"', None),
    ],
)
def test_a_fault_of_a_label(tmp_path: Path, key: str, value: str, text: str | None) -> None:
    given = {key: value, "vhid": '"99-101"', "addresses": '"10.0.0.{vhid}"'}
    (line,) = fault_lines(write(tmp_path, host(**given)))
    assert line.startswith(f"{TABLE}{key} = ")
    if text is None:  # too long once it is filled in, said once
        assert line.endswith(f'{"x" * 62}100" {NAME}')
        assert "for eth0/100: " in line
    else:
        assert line.endswith(f": {text}")


def test_labels_of_defaults_that_no_table_inherits_are_checked(tmp_path: Path) -> None:
    text = '[defaults]\nname = "{y}"\n' + host(name='"web"')
    (line,) = fault_lines(write(tmp_path, text))
    assert line == f'FILE: defaults: name = "{{y}}": "{{y}}" is unknown; {FIELDS}'


def test_an_image_has_labels_each_once_and_an_older_one_has_none(tmp_path: Path) -> None:
    table = host(vhid='"1-3"', addresses='"10.0.0.{vhid}"', name='"web"', segment='"office"')
    configuration = load_settled(write(tmp_path, table + host(vhid="9")))
    encoded = image.encode(configuration)
    decoded = image.decode(encoded)
    assert decoded == configuration
    assert len({id(each) for each in labels(decoded)}) == 2
    assert encoded.count(b"office") == 1
    whole: list[Any] = msgspec.msgpack.decode(encoded)
    *older, texts = whole
    older[10] = [each[:-1] for each in older[10]]
    assert texts == [["web", "", "office"]]
    assert labels(image.decode(msgspec.msgpack.encode(older))) == [NO_LABELS] * 4


def test_a_fingerprint_covers_labels(tmp_path: Path) -> None:
    tables = host(), host(name='"web"'), host(name='"other"')
    assert len({fingerprint(read(tmp_path, table)) for table in tables}) == 3
    assert fingerprint(read(tmp_path, host(name='""'))) == fingerprint(read(tmp_path, host()))


def test_a_reload_changes_labels_without_an_order(tmp_path: Path) -> None:
    table: Any = {"vhid": '"1-3"', "addresses": '"10.0.0.{vhid}"'}
    hosts = Hosts()
    for each in read(tmp_path, host(**table, segment='"office"')).virtual_hosts:
        hosts.take(each)
    new = read(tmp_path, host(**table, name='"vip-{vhid}"', segment='"office"'))
    difference = compare(hosts, new)
    assert difference.lines == ["eth0/1-3: name changed"]
    assert [slot for slot, _ in difference.without_order] == [0, 1, 2]
    assert not difference.replaced
    assert list(difference.keys) == ["name"]


# ----------------------------------------------------------------------------------------- as shown


def named(scene: Scene) -> None:
    host = scene.hosts.hosts[0]
    assert host is not None
    scene.hosts.hosts[0] = msgspec.structs.replace(host, labels=WEB)


def test_status_and_explain_have_labels() -> None:
    async def scenario() -> None:
        scene = Scene()
        named(scene)
        document = b"".join([part async for part in await scene.status.answer(StatusRequest())])
        web, other, *_ = msgspec.json.decode(document)["status"]["virtual_hosts"]
        keys = "name", "description", "segment"
        assert [web[key] for key in keys] == ["web", "the front end", "office"]
        assert [other[key] for key in keys] == [None] * 3
        request = ExplainRequest("eth0", 42)
        explained = (await scene.explanations.answer(request)).explain
        assert explain_text.text(explained).splitlines()[:3] == [
            "virtual host eth0/42 (web)",
            "  the front end",
            "  segment office",
        ]

    asyncio.run(scenario())


def test_events_and_hooks_have_labels() -> None:
    desk = Desk()
    host = desk.hosts.hosts[0]
    assert isinstance(host, VirtualHost)
    desk.hosts.hosts[0] = msgspec.structs.replace(host, labels=WEB)
    for slot in (0, 1):
        desk.change("BACKUP", "ready", slot)
        desk.change("MASTER", "master_down", slot)
        desk.change("BACKUP", "preempted", slot)
    *_, web, _, _, other = desk.events
    assert [web[key] for key in WEB.__struct_fields__] == ["web", "the front end", "office"]
    assert [other[key] for key in WEB.__struct_fields__] == [None] * 3
    assert " eth0/1 (web): MASTER -> BACKUP (preempted)" in line_of(web)
    assert " eth0/2: MASTER -> BACKUP (preempted)" in line_of(other)
    environments = [hook.environment for _, _, hook, _ in desk.hooks.submitted]
    found = [
        [each[f"CARP_{key.upper()}"] for key in WEB.__struct_fields__] for each in environments
    ]
    assert found == [["web", "the front end", "office"], ["", "", ""]]


def test_the_table_has_columns_for_names_and_segments_where_there_are_some(tmp_path: Path) -> None:
    fake = FakeDaemon(tmp_path / "control.sock")
    try:
        arguments = ["status", "--control-socket", str(fake.path)]
        assert "NAME" not in CliRunner().invoke(cli.main, arguments).output
        fake.hosts[0] = answered("eth0", 7, "MASTER", name="web", segment="office")
        lines = CliRunner().invoke(cli.main, arguments).output.splitlines()
    finally:
        fake.stop()
    header, first, second = lines[-4:-1]
    assert header.split()[:4] == ["VIRTUAL", "HOST", "NAME", "STATE"]
    assert header.split()[-1] == "SEGMENT"
    assert first.split()[:3] == ["eth0/7", "web", "MASTER"]
    assert first.split()[-1] == "office"
    assert second.split()[:3] == ["eth0/8", "-", "BACKUP"]
