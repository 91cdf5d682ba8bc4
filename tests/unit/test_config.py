"""The configuration: what it makes of good files, and the exact line for every fault of bad ones.

In the tables of faults FILE stands for the path of the file and DIR for its directory. Addresses,
groups, peers and what else is said of the wire: test_config_wire.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from carp_fast.config import secrets
from carp_fast.config.load import MAX_INTERFACES, MAX_VIRTUAL_HOSTS, load
from carp_fast.config.model import AnnounceRate
from tests.support.configurations import TABLE, fault_lines, host, read, write

NO_ADDRESS = "is not an IPv4 or IPv6 address; must be one such as 192.0.2.10/24"
ADDRESSES = 'an address such as "192.0.2.10/24" or "2001:db8::10/64", or a list of them'
TEMPLATES = "{vhid}, {number}, {index} or {ADDRESS+vhid}, {ADDRESS+number}, {ADDRESS+index}"
NAMES = 'allowed: 1 to 15 bytes without "/", ":" or space'
RANGE = 'must be a range such as "1,3,5-9" of numbers from 1 to 255'
PASSPHRASES = "passphrase, passphrase_file, passphrase_credential"
GROUP = "must be an IPv4 multicast group (224.0.0.0/4)"
HOOK = 'must be an absolute path or "module:function"'
VHID = 'must be an integer from 1 to 255, or a range such as "1,3,5-9"'
BRACKETS = 'must hold one number range in brackets, such as "vlan[100-163]"'
NUMBERS = 'must be a range such as "1,3,5-9" of numbers from 0 to 999999999'
NUMBER = '{number} needs an interface with a range, such as "vlan[100-163]"'
LATER = "not available in this version; allowed: "


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


KEY_FAULTS = [
    ("advbase", "256", "must be an integer from 0 to 255"),
    ("advbase", "true", "must be an integer from 0 to 255"),
    (
        "advbase",
        "0",
        'must be from 1 to 254 where advbase is 0, or advbase from 1 to 255, or dialect "openbsd"',
    ),
    ("hold", '"routes"', 'must be "address" or "route" or "auto"'),
    ("hold", "true", 'must be "address" or "route" or "auto"'),
    ("advskew", "255", "must be an integer from 0 to 254"),
    ("advskew", "-1", "must be an integer from 0 to 254"),
    ("advskew", '"100"', "must be an integer from 0 to 254"),
    ("advskew", "1.5", "must be an integer from 0 to 254"),
    ("dead_ratio", "0", "must be an integer from 1 to 255"),
    ("dead_ratio", "256", "must be an integer from 1 to 255"),
    ("preempt", '"yes"', 'must be true, false or "demoted"'),
    ("preempt", "1", 'must be true, false or "demoted"'),
    ("preempt_delay_s", "-1", "must be a number of seconds from 0 to 86400"),
    ("startup_delay_s", "nan", "must be a number of seconds from 0 to 86400"),
    ("address_deadline_s", "-1", "must be a number of seconds from 0 to 86400"),
    ("address_deadline_s", '"10"', "must be a number of seconds from 0 to 86400"),
    ("address_mac", '"virtual"', f'{LATER}"interface", or leave the key out'),
    (
        "group",
        '"lan"',
        "is the name of no [[group]]; there is none; allowed: a table [[group]] with this name,"
        ' or ""',
    ),
    ("track", '"uplink"', 'must be a list of names of tracks, such as ["uplink"]'),
    (
        "track",
        '["uplink"]',
        'holds "uplink", which is the name of no [[track]]; there is none',
    ),
    ("ignore_link_state", "1", "must be true or false"),
    ("manage_addresses", '"no"', "must be true or false"),
    ("up", '"up.sh"', HOOK),
    ("up", '""', HOOK),
    ("down", '"module:"', HOOK),
    ("down", '"a b:c"', HOOK),
    ("xparam", "1", "must be a string"),
    ("xparam", r'"a\u0000b"', "holds a NUL character; must be a string"),
    ("announce", "3", "must be a table such as {count = 1, interval_s = 0, refresh_s = 0}"),
    ("vhid", "0", VHID),
    ("vhid", "256", VHID),
    ("vhid", "true", VHID),
    ("vhid", '"0-3"', f'"0-3" is out of bounds; {RANGE}'),
    ("vhid", '"250-256"', f'"250-256" is out of bounds; {RANGE}'),
    ("vhid", '"5-3"', f'"5-3" makes no virtual host; {RANGE}'),
    ("vhid", '""', f'"" is not a number or range; {RANGE}'),
    ("vhid", '"1-9,x"', f'"x" is not a number or range; {RANGE}'),
    ("vhid", '"1-255,1"', f"makes more than 255 numbers; {RANGE}"),
    ("interface", '"sixteen-letters-"', f'"sixteen-letters-" has 16 bytes; {NAMES}'),
    ("interface", '"fourteen-bytes[9-10]"', f'"fourteen-bytes10" has 16 bytes; {NAMES}'),
    ("interface", '""', f'"" has 0 bytes; {NAMES}'),
    ("interface", '"a/b"', f'"a/b" is not an interface name; {NAMES}'),
    ("interface", '"a b"', f'"a b" is not an interface name; {NAMES}'),
    ("interface", '".."', f'".." is not an interface name; {NAMES}'),
    ("interface", "3", 'must be an interface name such as "eth0" or "vlan[100-163]"'),
    ("interface", '"e[1][2]"', BRACKETS),
    ("interface", '"e[1-2"', BRACKETS),
    ("interface", '"e[9-1]"', f'"9-1" makes no virtual host; {NUMBERS}'),
    ("interface", '"e[1-9999]"', f"makes more than 4096 numbers; {NUMBERS}"),
    (
        "unsigned_addresses",
        '"192.0.2.10/32"',
        "eth0/7 holds it twice; allowed: once, signed or unsigned",
    ),
    ("advskw", "1", "unknown key; the nearest known one is advskew"),
    ("hook_timeout_s", "5", "unknown key here; it belongs in [daemon]"),
    (
        "passphrase_file",
        '"none"',
        f"passphrase and passphrase_file in one table; allowed: one of {PASSPHRASES}",
    ),
]


@pytest.mark.parametrize(("key", "value", "text"), KEY_FAULTS)
def test_a_fault_of_one_key(tmp_path: Path, key: str, value: str, text: str) -> None:
    (line,) = fault_lines(write(tmp_path, host(**{key: value})))
    if (key, value) == ("advbase", "0"):
        key = "advskew"  # the key that makes an interval of 0 possible or not
    assert line == f"{TABLE}{key} = {value}: {text}"


FILE_FAULTS = {
    "no passphrase": (
        host(passphrase=""),
        [
            f"{TABLE}passphrase = (missing): must be given; allowed: one of {PASSPHRASES}, here or "
            "in [defaults]"
        ],
    ),
    "passphrase empty, too long, with NUL, not a string, in a table misspelt": (
        host(passphrase='""')
        + host(passphrase='"' + "\u00fc" * 10 + '"', vhid="8")
        + host(passphrase=r'"a\u0000"', vhid="9")
        + host(passphrase="5", vhid="10")
        + host(passphrase="", pasphrase='"swordfish"', passphrase_credential='"x"', vhid="11"),
        [
            "FILE: virtual_host[1]: passphrase = (hidden): the passphrase is empty; "
            "allowed: 1 to 19 bytes",
            "FILE: virtual_host[2]: passphrase = (hidden): the passphrase has 20 bytes; "
            "allowed: 1 to 19 bytes",
            "FILE: virtual_host[3]: passphrase = (hidden): holds a NUL character; must be a string",
            "FILE: virtual_host[4]: passphrase = (hidden): must be a string",
            "FILE: virtual_host[5]: pasphrase = (hidden): unknown key; the nearest known "
            "one is passphrase",
            'FILE: virtual_host[5]: passphrase_credential = "x": there are no '
            "credentials: $CREDENTIALS_DIRECTORY is not set; allowed: a credential of the service "
            "that systemd runs",
        ],
    ),
    "everything missing": (
        "[[virtual_host]]",
        [
            f"FILE: virtual_host[1]: passphrase = (missing): must be given; allowed: one "
            f"of {PASSPHRASES}, here or in [defaults]",
            "FILE: virtual_host[1]: interface = (missing): must be given; allowed: a name "
            'such as "eth0", a range such as "vlan[100-163]", or a list of them',
            "FILE: virtual_host[1]: vhid = (missing): must be given; allowed: an integer "
            'from 1 to 255, a range such as "1,3,5-9", or a list of them',
            f"FILE: virtual_host[1]: addresses = (missing): must be given; allowed: {ADDRESSES}",
        ],
    ),
    "empty lists": (
        host(interface="[]", vhid="[]", addresses="[]", unsigned_addresses="[]"),
        [
            f"{TABLE}interface = []: is empty and makes no virtual host; allowed: a name such as "
            '"eth0", a range such as "vlan[100-163]", or a list of them',
            f"{TABLE}vhid = []: is empty and makes no virtual host; allowed: an integer from 1 to "
            '255, a range such as "1,3,5-9", or a list of them',
            f"{TABLE}addresses = []: is empty and makes no virtual host; allowed: {ADDRESSES}",
        ],
    ),
    "every wrong item of every list": (
        host(interface='["", "a/b", "eth0"]', vhid="[0, 256, 1]", addresses='["x", "y/z"]'),
        [
            f'{TABLE}interface = "": "" has 0 bytes; {NAMES}',
            f'{TABLE}interface = "a/b": "a/b" is not an interface name; {NAMES}',
            f"{TABLE}vhid = 0: {VHID}",
            f"{TABLE}vhid = 256: {VHID}",
            f'{TABLE}addresses = "x": {NO_ADDRESS}',
            f'{TABLE}addresses = "y/z": {NO_ADDRESS}',
        ],
    ),
    "number with a plain name beside a range": (
        host(interface='["e[1-2]", "eth0"]', addresses='"10.0.{number}.1"'),
        [f'{TABLE}addresses = "10.0.{{number}}.1": {NUMBER}'],
    ),
    "an address that repeats with another prefix": (
        host(addresses='["192.0.2.1/24", "192.0.2.2", "192.0.2.1/32"]'),
        [
            f'{TABLE}addresses = "192.0.2.1/32": eth0/7 holds it twice; allowed: once, signed or '
            "unsigned"
        ],
    ),
    "a duplicate identity names both tables": (
        host(vhid='"1-9"', addresses='"10.0.0.{vhid}"') + host(vhid='"5-20"') + host(vhid="9"),
        [
            'FILE: virtual_host[2]: vhid = "5-20": eth0/5 and 4 more with destination '
            "224.0.0.18 exists in FILE:2: virtual_host[1]; allowed: one virtual host for "
            "each interface, destination and vhid",
            "FILE: virtual_host[3]: vhid = 9: eth0/9 with destination 224.0.0.18 exists "
            "in FILE:2: virtual_host[1]; allowed: one virtual host for each interface, "
            "destination and vhid",
        ],
    ),
    "a duplicate identity within a table": (
        host(vhid="[1, 1]"),
        [
            f"{TABLE}vhid = [1, 1]: eth0/1 with destination 224.0.0.18 exists in this table; "
            "allowed: one virtual host for each interface, destination and vhid"
        ],
    ),
    "a duplicate is found in a table with other faults": (
        host() + host(advskew="300"),
        [
            "FILE: virtual_host[2]: advskew = 300: must be an integer from 0 to 254",
            "FILE: virtual_host[2]: vhid = 7: eth0/7 with destination 224.0.0.18 exists "
            "in FILE:2: virtual_host[1]; allowed: one virtual host for each interface, "
            "destination and vhid",
        ],
    ),
    "a fault of [defaults] is said once, not for each table": (
        "[defaults]\nadvskew = 300\nadvbase = 0\npassphrase = 1\ndestination = 'x'\n"
        + host(passphrase="")
        + host(passphrase="", interface='"eth1"'),
        [
            "FILE: defaults: advskew = 300: must be an integer from 0 to 254",
            f'FILE: defaults: destination = "x": is not an IPv4 or IPv6 address; {GROUP}',
            "FILE: defaults: passphrase = (hidden): must be a string",
        ],
    ),
    "an interval of 0 from [defaults]": (
        "[defaults]\nadvbase = 0\n" + host() + host(vhid="8", advskew="1") + host(vhid="9"),
        [
            "FILE: defaults: advskew = 0: must be from 1 to 254 where advbase is 0, or advbase "
            'from 1 to 255, or dialect "openbsd"'
        ],
    ),
    "host keys of [defaults], also those that every table overrides": (
        "[defaults]\ninterface = ''\nvhid = 0\naddresses = '{y}'\n" + host(),
        [
            f'FILE: defaults: interface = "": "" has 0 bytes; {NAMES}',
            f"FILE: defaults: vhid = 0: {VHID}",
            f'FILE: defaults: addresses = "{{y}}": "{{y}}" is unknown; allowed in an address: '
            f"{TEMPLATES}",
        ],
    ),
    "announce": (
        host(announce="{count = 11, interval_s = 61, refresh_s = -1, cuont = 1}"),
        [
            f"{TABLE}announce.count = 11: must be an integer from 1 to 10",
            f"{TABLE}announce.interval_s = 61: must be a number of seconds from 0 to 60",
            f"{TABLE}announce.refresh_s = -1: must be a number of seconds from 0 to 3600",
            f"{TABLE}announce.cuont = 1: unknown key; the nearest known one is announce.count",
        ],
    ),
    "daemon": (
        "[daemon]\n"
        'control_socket = "run.sock"\nstate_directory = 1\nreceive = "tape"\npump = "fork"\n'
        'notify = "say"\nannounce_rate = 0\nhook_concurrency = 0\n'
        "hook_timeout_s = 0\ndigest_grace_s = inf\nmaintenance_rate = 0\n"
        'secret_key_file = "none"\nmetrics = 9112\n'
        'metrics_detail = "most"\nmetrics_public = 1\nrecieve = "auto"\nadvskew = 1\n',
        [
            'FILE: daemon: control_socket = "run.sock": must be an absolute path',
            "FILE: daemon: state_directory = 1: must be an absolute path",
            'FILE: daemon: receive = "tape": must be "auto" or "packet" or "ring" or "raw" or'
            ' "tcx"',
            'FILE: daemon: pump = "fork": must be "thread" or "loop"',
            'FILE: daemon: notify = "say": must be an absolute path',
            "FILE: daemon: announce_rate = 0: must be an integer from 1 to 1000000, or interface,"
            " at_once, all in a table",
            "FILE: daemon: hook_concurrency = 0: must be an integer from 1 to 1024",
            "FILE: daemon: hook_timeout_s = 0: must be a number of seconds from 0.01 to 86400",
            "FILE: daemon: digest_grace_s = inf: must be a number of seconds from 0 to 86400",
            "FILE: daemon: maintenance_rate = 0: must be an integer from 1 to 100000",
            'FILE: daemon: metrics = 9112: must be an address and port such as "127.0.0.1:9112" or'
            ' "[::1]:9112", or an absolute path',
            'FILE: daemon: metrics_detail = "most": must be "interface" or "exceptional" or "full"',
            "FILE: daemon: metrics_public = 1: must be true or false",
            'FILE: daemon: recieve = "auto": unknown key; the nearest known one is receive',
            "FILE: daemon: advskew = 1: unknown key here; it belongs in [defaults] or "
            "[[virtual_host]]",
            'FILE: daemon: secret_key_file = "none": cannot be read: No such file or directory',
        ],
    ),
    "a socket path that the kernel cannot take": (
        f'[daemon]\ncontrol_socket = "/{"x" * 60}/{"y" * 60}"',
        [
            f'FILE: daemon: control_socket = "/{"x" * 60}/{"y" * 14}...: is too long; allowed: at '
            "most 107 bytes"
        ],
    ),
    "tables that are not what they must be": (
        "defaults = 1\ndaemon = 2\nvirtual_host = {}\n",
        [
            "FILE: daemon: is not a table; allowed: one that begins [daemon]",
            "FILE: defaults: is not a table; allowed: one that begins [defaults]",
            "FILE: virtual_host: is not an array of tables; allowed: tables that begin "
            "[[virtual_host]]",
        ],
    ),
    "unknown tables and top-level keys": (
        "inclde = []\npassphrase = 'x'\n[demon]\n[[virtual_hosts]]\n[[group]]\nname = 'lan'\n"
        "[[track]]\nname = 'up'\n",
        [
            "FILE: top level: inclde = []: unknown key; the nearest known one is include",
            "FILE: top level: passphrase = (hidden): unknown key here; it belongs in [defaults] or "
            "[[virtual_host]]",
            "FILE: demon: unknown table; the nearest known one is daemon",
            "FILE: virtual_hosts: unknown table; the nearest known one is virtual_host",
            'FILE: track[1]: kind = (missing): must be given; allowed: "interface", "process", '
            '"file", "script", "ping", "tcp"',
        ],
    ),
    "include": (
        'include = ["none.toml", 3, "none*.toml"]',
        [
            'FILE: top level: include = "none.toml": no such file; allowed: a file that exists, or '
            "a pattern with *, ? or []",
            "FILE: top level: include = 3: must be a path or pattern, or a list of them",
        ],
    ),
    "a wrong token without and a token with no key": (
        host(passphrase='"encrypted:AAAA"'),
        [
            f"{TABLE}passphrase = (hidden): the passphrase is encrypted and there is no key; "
            "allowed: a key in daemon.secret_key_file or the systemd credential carp-fast.key"
        ],
    ),
    "values are shown on one line and cut": (
        host(xparam='["' + "a" * 200 + '"]', up=r'"a\nb\u001b"', down="{x = 1}")
        + host(vhid="8", advskew="0x" + "f" * 5000, advbase="2020-01-01"),
        [
            f'{TABLE}xparam = ["{"a" * 75}...: must be a string',
            rf'{TABLE}up = "a\nb\u001b": {HOOK}',
            f"{TABLE}down = {{...}}: {HOOK}",
            "FILE: virtual_host[2]: advskew = an integer of 20000 bits: must be an "
            "integer from 0 to 254",
            "FILE: virtual_host[2]: advbase = 2020-01-01: must be an integer from 0 to 255",
        ],
    ),
    "no TOML": (
        "[[virtual_host]\n",
        [
            "FILE: is not TOML: Expected ']]' at the end of an array declaration (at line 1, "
            "column 15)"
        ],
    ),
    "no TOML: too deep": ("a = " + "[" * 100_000, ["FILE: is not TOML: nested too deeply"]),
    "a line is not named where it cannot be known": (
        host(xparam='"""\n[[virtual_host]]\n"""', advskew="999"),
        ["FILE: virtual_host[1]: advskew = 999: must be an integer from 0 to 254"],
    ),
}


@pytest.mark.parametrize(("text", "lines"), FILE_FAULTS.values(), ids=FILE_FAULTS)
def test_faults_of_a_file(tmp_path: Path, text: str, lines: list[str]) -> None:
    assert fault_lines(write(tmp_path, text)) == lines


@pytest.mark.parametrize(
    ("value", "rate"),
    [
        ("15", (15, 15, 0)),
        ("20_000", (20_000, 512, 0)),
        ("{}", (10_000, 512, 0)),
        ("{interface = 100, all = 1000}", (100, 100, 1_000)),
        ("{at_once = 30}", (10_000, 30, 0)),
    ],
)
def test_the_pace_of_announcements(tmp_path: Path, value: str, rate: tuple[int, ...]) -> None:
    daemon = read(tmp_path, f"[daemon]\nannounce_rate = {value}\n" + host()).daemon
    assert daemon.announce_rate == AnnounceRate(*rate)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("{all = -1}", "all = -1 must be an integer from 0 to 1000000"),
        ("{at_once = 0}", "at_once = 0 must be an integer from 1 to 1000000"),
        ("{interfaces = 1}", "interfaces: unknown; allowed: interface, at_once, all"),
    ],
)
def test_a_pace_of_announcements_that_cannot_be(tmp_path: Path, value: str, text: str) -> None:
    path = write(tmp_path, f"[daemon]\nannounce_rate = {value}\n" + host())
    assert fault_lines(path) == [f"FILE: daemon: announce_rate = {{...}}: {text}"]


def test_an_include_with_too_many_parts_is_a_fault(tmp_path: Path) -> None:
    (line,) = fault_lines(write(tmp_path, f'include = "{"/*" * 5_000}"\n' + host()))
    assert line.startswith('FILE: top level: include = "/*/*')
    assert line.endswith(": has too many parts; must be a path or pattern, or a list of them")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "carp.toml"
    assert fault_lines(path) == ["FILE: cannot be read: No such file or directory"]
    path.mkdir()
    assert fault_lines(path) == ["FILE: cannot be read: Is a directory"]
    path.rmdir()
    path.symlink_to(path)
    assert fault_lines(path) == ["FILE: cannot be read: Too many levels of symbolic links"]
    path.unlink()
    path.write_bytes(b"# \xff")
    assert fault_lines(path) == ["FILE: is not TOML: not UTF-8 at byte 2"]


@contextmanager
def an_ordinary_user() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_files_that_this_user_may_not_read() -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        path = write(directory, f'include = ["closed/*.toml"]\n{host()}', mode=0o644)
        closed = directory / "closed"
        closed.mkdir()
        closed.chmod(0o311)
        with an_ordinary_user():
            assert fault_lines(path) == [
                'FILE: top level: include = "closed/*.toml": DIR/closed cannot be listed: '
                "Permission denied; allowed: one that can"
            ]
        closed.chmod(0o755)
        path.chmod(0)
        with an_ordinary_user():
            assert fault_lines(path) == ["FILE: cannot be read: Permission denied"]


def test_passphrase_files_that_cannot_serve_are_refused_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path, "abc\n", "open", mode=0o644)
    write(tmp_path, "", "empty")
    write(tmp_path, "x" * 20, "long")
    group = write(tmp_path, "abc\n", "group", mode=0o640)
    if os.geteuid() == 0:
        os.chown(group, 0, 12345)
    names = ("none", "open", "empty", "long", "group")
    tables = (
        host(passphrase="", passphrase_file=f'"{name}"', vhid=str(vhid))
        for vhid, name in enumerate(names, 1)
    )
    gid = (tmp_path / "open").stat().st_gid
    modes = "allowed: mode 0600, or 0640 with group root"
    reasons = (
        "cannot be read: No such file or directory",
        f"others may read it (mode 0644, gid {gid}); {modes}",
        "the passphrase is empty; allowed: 1 to 19 bytes",
        "the passphrase has 20 bytes; allowed: 1 to 19 bytes",
        f"others may read it (mode 0640, gid {group.stat().st_gid}); {modes}",
    )
    assert fault_lines(write(tmp_path, "".join(tables))) == [
        f'FILE: virtual_host[{n}]: passphrase_file = "{name}": {reason}'
        for n, (name, reason) in enumerate(zip(names, reasons, strict=True), 1)
    ]


def test_encrypted_passphrases_need_the_right_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("key", "other"):
        secrets.create_key(tmp_path / name)
    token = secrets.encrypt(b"k3Jx9QpL2mZt", secrets.read_key(tmp_path / "key"))
    table = host(passphrase=f'"{token}"')
    daemon = '[daemon]\nsecret_key_file = "{}"\n'

    good = load(write(tmp_path, daemon.format("key") + table, mode=0o644))
    assert good.virtual_hosts[0].settings.passphrase == b"k3Jx9QpL2mZt"
    assert good.daemon.secret_key_file == tmp_path / "key"
    assert good.warnings == ()  # a token may stand where others read it

    assert fault_lines(write(tmp_path, daemon.format("other") + table)) == [
        "FILE: virtual_host[1]: passphrase = (hidden): cannot be decrypted: the token is "
        "damaged or was made with another key"
    ]
    write(tmp_path, "no key", "bad")
    for name, reason in (
        ("none", "cannot be read: No such file or directory"),
        ("bad", "is not a key; allowed: one made by `carp-fast secret key FILE`"),
    ):
        # The passphrases that wait for the key are not faults of their own.
        path = write(tmp_path, daemon.format(name) + table)
        assert fault_lines(path) == [f'FILE: daemon: secret_key_file = "{name}": {reason}']

    with TemporaryDirectory() as short:  # a long path would be cut
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", short)
        write(Path(short), (tmp_path / "key").read_text(), "carp-fast.key", mode=0o440)
        assert read(tmp_path, table).virtual_hosts[0].settings.passphrase == b"k3Jx9QpL2mZt"
        write(Path(short), "no key", "carp-fast.key")
        assert fault_lines(write(tmp_path, table)) == [
            f'FILE: daemon: secret_key_file = "{short}/carp-fast.key": is not a key; allowed: one '
            "made by `carp-fast secret key FILE`"
        ]


def test_faults_of_included_files_come_in_the_same_run(tmp_path: Path) -> None:
    write(tmp_path, host(vhid="8") + host(), "conf.d/b.toml")
    write(tmp_path, "include = []\n[daemon]\n[defaults]\nvhid = 0\n" + host(), "conf.d/a.toml")
    write(tmp_path, "]", "conf.d/c.toml")
    path = write(tmp_path, 'include = "conf.d/*.toml"\n' + host(advskew="-1"))
    arrays = "[[virtual_host]] and [[group]] and [[track]]"
    only = f"belongs in FILE; allowed in an included file: {arrays}"
    once = "allowed: one virtual host for each interface, destination and vhid"
    made = "eth0/7 with destination 224.0.0.18 exists in FILE:3: virtual_host[1]"
    assert fault_lines(path) == [
        f"DIR/conf.d/a.toml: top level: include = []: {only}",
        f"DIR/conf.d/a.toml: daemon: {only}",
        f"DIR/conf.d/a.toml: defaults: {only}",
        "DIR/conf.d/c.toml: is not TOML: Invalid statement (at line 1, column 1)",
        "FILE: virtual_host[1]: advskew = -1: must be an integer from 0 to 254",
        f"DIR/conf.d/a.toml: virtual_host[1]: vhid = 7: {made}; {once}",
        f"DIR/conf.d/b.toml: virtual_host[2]: vhid = 7: {made}; {once}",
    ]


def test_limits_of_the_engine(tmp_path: Path) -> None:
    table = host(interface='"e[1-257]"', vhid='"1-255"', addresses='"{10.0.0.1+index}"')
    other = table.replace("[[virtual_host]]", '[[virtual_host]]\ndestination = "224.0.0.19"')
    assert 2 * 257 * 255 <= MAX_VIRTUAL_HOSTS < 2 * 257 * 255 + 3
    path = write(tmp_path, table + other + host(vhid='"1-3"', addresses='"192.0.2.{vhid}"'))
    assert fault_lines(path) == [
        'FILE: virtual_host[3]: vhid = "1-3": makes 131,073 virtual hosts with '
        "earlier tables; allowed: 131,072 (MAX_VIRTUAL_HOSTS)"
    ]
    path = write(tmp_path, host(interface=f'["e[1-{MAX_INTERFACES}]", "eth0"]'))
    assert fault_lines(path) == [
        f'{TABLE}interface = ["e[1-4096]", "eth0"]: makes 4,097 interfaces with earlier tables; '
        "allowed: 4,096 (MAX_INTERFACES)"
    ]
