"""The [[track]] tables of a configuration: what they become, and every fault of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from carp_fast.config.load import load
from carp_fast.config.tracks import (
    TRACKS_MAX,
    FileTrack,
    InterfaceTrack,
    PingTrack,
    ProcessTrack,
    ScriptTrack,
    TcpTrack,
)
from tests.support.configurations import HOST, fault_lines, read, warning_lines, write

KINDS = '"interface" or "process" or "file" or "script" or "ping" or "tcp"'
USES = HOST + 'track = ["web"]\n'
COMMON = "demotion, initial"
PROBED = "interval_s, timeout_s, rise, fall"


def table(kind: str, keys: str) -> str:
    return f'{USES}[[track]]\nname = "web"\nkind = "{kind}"\n{keys}\n'


def script(directory: Path, name: str = "check", mode: int = 0o755) -> Path:
    directory.chmod(0o755)
    path = directory / name
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_each_kind_of_track_has_its_keys_and_defaults(tmp_path: Path) -> None:
    path = script(tmp_path)
    tables = [
        ("a", "interface", 'interface = "eth1"'),
        ("b", "process", 'executable = "/usr/sbin/nginx"\nrise_s = 2\ndemotion = 10'),
        ("c", "file", 'path = "/run/demote"\ninitial = "ok"'),
        ("d", "script", f'script = ["{path}", "-v"]\nfall = 5'),
        ("e", "ping", 'target = "2001:DB8::1"\nsource = "2001:db8::2"\ninterface = "eth1"'),
        ("f", "tcp", 'target = "192.0.2.1"\nport = 443\ndemotion = 240'),
    ]
    text = HOST + 'track = ["a", "b", "c", "d", "e", "f"]\n'
    for name, kind, keys in tables:
        text += f'[[track]]\nname = "{name}"\nkind = "{kind}"\n{keys}\n'
    found = read(tmp_path, text)
    assert found.warnings == ()
    assert found.virtual_hosts[0].settings.track == tuple("abcdef")
    assert found.tracks == (
        InterfaceTrack(name="a", interface="eth1"),
        ProcessTrack(name="b", executable="/usr/sbin/nginx", rise_s=2, demotion=10),
        FileTrack(name="c", path="/run/demote", initial="ok"),
        ScriptTrack(name="d", script=(str(path), "-v"), fall=5),
        PingTrack(name="e", target="2001:db8::1", source="2001:db8::2", interface="eth1"),
        TcpTrack(name="f", target="192.0.2.1", port=443, demotion=240),
    )


def test_tracks_may_stand_in_included_files_and_be_named_in_defaults(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    write(tmp_path, '[[track]]\nname = "web"\nkind = "file"\npath = "/run/x"\n', "more.toml")
    text = 'include = "more.toml"\n[defaults]\ntrack = ["web"]\n' + HOST
    found = read(tmp_path, text)
    assert [each.name for each in found.tracks] == ["web"]
    assert found.virtual_hosts[0].settings.track == ("web",)


FAULTS: dict[str, tuple[str, list[str]]] = {
    "no kind": (
        f'{USES}[[track]]\nname = "web"\n',
        [
            'kind = (missing): must be given; allowed: "interface", "process", "file", "script",'
            ' "ping", "tcp"'
        ],
    ),
    "an unknown kind": (table("http", ""), [f'kind = "http": must be {KINDS}']),
    "no name": (
        USES.replace('track = ["web"]', "") + '[[track]]\nkind = "file"\npath = "/x"\n',
        ["name = (missing): must be given"],
    ),
    "a name of nothing": (
        USES.replace('track = ["web"]', "") + '[[track]]\nname = " "\nkind = "file"\npath = "/x"\n',
        ['name = " ": must be 1 to 64 printable characters'],
    ),
    "a demotion of 0": (
        table("file", 'path = "/x"\ndemotion = 0'),
        ["demotion = 0: must be an integer from 1 to 255"],
    ),
    "a demotion that only OpenBSD's dialect has": (
        table("file", 'path = "/x"\ndemotion = 241'),
        [
            "demotion = 241: must be an integer from 1 to 240, or to 255 if every virtual host that"
            ' names it has dialect "openbsd"'
        ],
    ),
    "a key of another kind": (
        table("file", 'path = "/x"\ninterval_s = 3'),
        [
            f'interval_s = 3: belongs to kind "script" or "ping" or "tcp"; allowed for "file": '
            f"{COMMON}, path"
        ],
    ),
    "a key of a virtual host": (
        table("file", 'path = "/x"\nadvskew = 3'),
        ["advskew = 3: unknown key here; it belongs in [defaults] or [[virtual_host]]"],
    ),
    "an unknown key": (
        table("ping", 'target = "192.0.2.1"\nintervals = 3'),
        ["intervals = 3: unknown key; the nearest known one is interval_s"],
    ),
    "a missing key of the kind": (
        table("tcp", 'target = "192.0.2.1"'),
        ["port = (missing): must be given"],
    ),
    "a process by nothing": (
        table("process", ""),
        ["executable = (missing): must be given; allowed: executable, pid_file, or both"],
    ),
    "values": (
        table(
            "ping",
            'target = "224.0.0.1"\ninterface = "a b"\ninterval_s = 0\nrise = 0\ninitial = "no"',
        ),
        [
            'target = "224.0.0.1": is not the address of a host; must be the address of a host,'
            " without prefix",
            'interface = "a b": must be the name of an interface such as "eth0", at most 15 bytes',
            "interval_s = 0: must be a number of seconds from 0.1 to 86400",
            "rise = 0: must be an integer from 1 to 255",
            'initial = "no": must be "failed" or "ok"',
        ],
    ),
    "a source of the other family": (
        table("ping", 'target = "192.0.2.1"\nsource = "::1"'),
        ['source = "::1": must be an address of the family of target, IPv4'],
    ),
    "a link-local target without an interface": (
        table("tcp", 'target = "fe80::1"\nport = 1'),
        ['target = "fe80::1": is link-local; allowed with the key interface'],
    ),
    "a script with a path of its own": (
        table("script", 'script = ["check", "-v"]'),
        [
            'script = ["check", "-v"]: must be an absolute path, or a list of one and its arguments'
            ", 32 at most"
        ],
    ),
    "a script that is missing": (
        table("script", 'script = "/nonexistent/check"'),
        [
            'script = "/nonexistent/check": cannot be run: No such file or directory; allowed: an'
            " executable file"
        ],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_track(tmp_path: Path, name: str) -> None:
    text, expected = FAULTS[name]
    assert fault_lines(write(tmp_path, text)) == [f"FILE: track[1]: {line}" for line in expected]


def test_a_demotion_above_240_where_every_host_has_openbsds_dialect(tmp_path: Path) -> None:
    text = table("file", 'path = "/x"\ndemotion = 255').replace(
        "track =", 'dialect = "openbsd"\ntrack ='
    )
    assert read(tmp_path, text).tracks[0].demotion == 255


def test_two_tracks_with_one_name(tmp_path: Path) -> None:
    path = write(tmp_path, table("file", 'path = "/x"') + table("file", 'path = "/y"')[len(USES) :])
    (line,) = fault_lines(path)
    assert line == (
        'FILE: track[2]: name = "web": exists in FILE: track[1]; allowed: a name for each track'
    )


def test_an_unknown_track_is_a_fault_that_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, table("file", 'path = "/x"').replace('["web"]', '["wbe"]'))
    (line,) = fault_lines(path)
    assert line == (
        'FILE: virtual_host[1]: track = ["wbe"]: holds "wbe", which is the name of no [[track]];'
        ' the nearest is "web"'
    )


def test_a_track_that_no_virtual_host_names_is_a_warning_and_not_followed(tmp_path: Path) -> None:
    path = write(tmp_path, HOST + '[[track]]\nname = "web"\nkind = "file"\npath = "/x"\n')
    loaded = load(path)
    assert warning_lines(path, loaded.warnings) == [
        'FILE: track[1]: name = "web": no virtual host names it in its key track, so it is not'
        " followed"
    ]
    assert loaded.tracks == ()


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (0o644, "is not an executable file; allowed: one that is"),
        (0o757, "everybody may write it (mode 0757); allowed: mode 0755"),
    ],
)
def test_a_script_that_is_not_to_be_run(tmp_path: Path, mode: int, text: str) -> None:
    path = script(tmp_path, mode=mode)
    (line,) = fault_lines(write(tmp_path, table("script", f'script = "{path}"')))
    assert line.startswith("FILE: track[1]: script = ")
    assert line.endswith(f": {text}")


def test_a_script_in_a_directory_that_everybody_may_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    place = tmp_path / "open"
    place.mkdir()
    path = script(place)
    place.chmod(0o777)
    (line,) = fault_lines(write(tmp_path, table("script", f'script = "{path}"')))
    assert "everybody may exchange it in DIR/open (mode 0777); allowed: mode 0755, or 1777" in line


def test_more_tracks_than_are_allowed(tmp_path: Path) -> None:
    tables = (
        f'[[track]]\nname = "{number}"\nkind = "file"\npath = "/x"\n'
        for number in range(TRACKS_MAX + 2)
    )
    (line,) = fault_lines(write(tmp_path, HOST + "".join(tables)))
    assert line == (
        f'FILE: track[{TRACKS_MAX + 1}]: name = "{TRACKS_MAX}": is one more than the tracks'
        " allowed: 4,096 (TRACKS_MAX)"
    )
