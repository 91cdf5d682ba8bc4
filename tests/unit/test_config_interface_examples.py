"""What good files make: the documented example, inheritance, includes, ranges and templates.

Also the warnings, which stop nothing, and what a virtual host costs in memory.
"""

from __future__ import annotations

import ipaddress
import tracemalloc
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_fast.config.load import Announce, ConfigurationError, Daemon, Settings, load
from carp_fast.config.model import MetricsAddress
from tests.support.configurations import read, warning_lines, write

EXAMPLE = """
include = ["conf.d/*.toml"]

[daemon]
control_socket = "/run/carp-fast/control.sock"
state_directory = "/var/lib/carp-fast"
receive = "auto"                  # "packet"; "raw": a used interface forwards
metrics = "127.0.0.1:9112"        # off unless given

[defaults]                        # of every virtual host below
passphrase_file = "secret"        # its first line, without the line end
preempt = true

[[virtual_host]]
interface = "eth0"
vhid = 1
addresses = ["192.0.2.10/24", "2001:db8::10/64"]

[[virtual_host]]                  # one table, 16,320 virtual hosts
interface = "vlan[100-163]"       # a number range in brackets; a list also works
vhid = "1-255"
addresses = ["{10.64.0.1+index}/32"]
"""
HOST = """
[[virtual_host]]
interface = "eth0"
vhid = 7
addresses = "192.0.2.10/24"
"""
PASSPHRASE = "[defaults]\npassphrase = 'k3Jx9QpL2mZt'\n"


def test_the_documented_example(tmp_path: Path) -> None:
    write(tmp_path, "k3Jx9QpL2mZt\n", "secret")
    configuration = read(tmp_path, EXAMPLE)
    hosts = configuration.virtual_hosts
    assert configuration.daemon == Daemon(metrics=MetricsAddress("127.0.0.1", 9112))
    assert configuration.files == (configuration.path,) == (tmp_path / "carp.toml",)
    assert configuration.warnings == ()
    assert len(hosts) == 1 + 64 * 255
    assert (hosts[0].name, hosts[0].addresses) == (
        "eth0/1",
        ("192.0.2.10/24", "2001:db8::10/64"),
    )
    assert (hosts[1].name, hosts[1].addresses) == ("vlan100/1", ("10.64.0.1/32",))
    assert (hosts[256].name, hosts[256].addresses) == ("vlan101/1", ("10.64.1.0/32",))
    assert (hosts[-1].name, hosts[-1].addresses) == ("vlan163/255", ("10.64.63.192/32",))
    assert hosts[-1].identity == ("vlan163", ("224.0.0.18",), 255)
    assert hosts[0].identity == ("eth0", ("224.0.0.18", "ff02::12"), 1)
    assert hosts[1].settings is hosts[-1].settings
    assert hosts[0].settings.passphrase == hosts[1].settings.passphrase == b"k3Jx9QpL2mZt"
    assert hosts[0].settings.preempt is True
    assert str(hosts[1].settings.origin) == f"{tmp_path}/carp.toml:19: virtual_host[2]"


def test_keys_left_out_have_the_documented_defaults(tmp_path: Path) -> None:
    (host,) = read(tmp_path, PASSPHRASE + HOST).virtual_hosts
    expected = {
        "advbase": 1,
        "advskew": 0,
        "dead_ratio": 3,
        "preempt": "demoted",
        "preempt_delay_s": 0.0,
        "startup_delay_s": 0.0,
        "source": None,
        "source6": None,
        "dialect": "ucarp",
        "destination": "224.0.0.18",
        "destination6": "ff02::12",
        "peers": (),
        "broadcast": False,
        "advertise_mac": "interface",
        "replay": "learn",
        "lladdr": None,
        "preferred": False,
        "ignore_link_state": False,
        "manage_addresses": True,
        "address_deadline_s": 10.0,
        "announce": Announce(count=1, interval_s=0.0, refresh_s=0.0),
        "up": None,
        "down": None,
        "xparam": None,
    }
    assert {key: getattr(host.settings, key) for key in expected} == expected
    assert host.unsigned_addresses == ()


def test_neutral_values_of_keys_that_are_not_built_ask_for_nothing(tmp_path: Path) -> None:
    neutral = "peers = []\ntrack = []\naddress_mac = 'interface'\n"
    assert len(read(tmp_path, PASSPHRASE + neutral + HOST).virtual_hosts) == 1


EVERY_KEY = """
[daemon]
control_socket = "/tmp/c"
state_directory = "/tmp/s"
receive = "raw"
pump = "loop"
notify = "SCRIPT"
hook_concurrency = 4
hook_timeout_s = 2.5
digest_grace_s = 0
[[virtual_host]]
interface = "eth0"
vhid = 7
addresses = ["192.0.2.11/24", "2001:db8::11", "192.0.2.10"]
unsigned_addresses = "192.0.2.{vhid}"
passphrase = "19 bytes of secrets"
source = ["2001:DB8::1", "192.0.2.1"]
advbase = 0
advskew = 254
dead_ratio = 255
preempt = false
preempt_delay_s = 1
startup_delay_s = 0.5
dialect = "openbsd"
destination = "239.1.2.3"
destination6 = "FF05::0:12"
broadcast = true
advertise_mac = "bsd"
replay = "strict"
lladdr = "02:00:00:00:00:AB"
preferred = true
ignore_link_state = true
manage_addresses = false
address_deadline_s = 2.5
announce = {count = 10, interval_s = 60, refresh_s = 3600}
up = "SCRIPT"
down = "pack.age:call"
xparam = ""
"""


def test_every_key_is_read(tmp_path: Path) -> None:
    script = write(tmp_path, "#!/bin/sh\n", "script", mode=0o700)
    text = EVERY_KEY.replace("SCRIPT", str(script))
    configuration = read(tmp_path, text)
    assert configuration.daemon == Daemon(
        control_socket=Path("/tmp/c"),
        state_directory=Path("/tmp/s"),
        receive="raw",
        pump="loop",
        notify=str(script),
        hook_concurrency=4,
        hook_timeout_s=2.5,
        digest_grace_s=0.0,
    )
    (host,) = configuration.virtual_hosts
    assert host.addresses == (  # in the order written
        "192.0.2.11/24",
        "2001:db8::11/128",
        "192.0.2.10/32",
    )
    assert host.unsigned_addresses == ("192.0.2.7/32",)
    assert host.settings == Settings(
        passphrase=b"19 bytes of secrets",
        source="192.0.2.1",
        source6="2001:db8::1",
        advbase=0,
        advskew=254,
        dead_ratio=255,
        preempt=False,
        preempt_delay_s=1.0,
        startup_delay_s=0.5,
        dialect="openbsd",
        destination="239.1.2.3",
        broadcast=True,
        advertise_mac="bsd",
        destination6="ff05::12",
        replay="strict",
        lladdr="02:00:00:00:00:ab",
        preferred=True,
        ignore_link_state=True,
        manage_addresses=False,
        address_deadline_s=2.5,
        announce=Announce(count=10, interval_s=60.0, refresh_s=3600.0),
        up=str(script),
        down="pack.age:call",
        xparam="",
        origin=host.settings.origin,
    )
    assert isinstance(host.settings.preempt_delay_s, float)


def test_a_table_goes_before_defaults_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, "from file\n", "secret")
    text = """
[defaults]
interface = "eth[1-2]"
vhid = 3
addresses = "10.0.{number}.{index}"
unsigned_addresses = ["10.1.{number}.1"]
passphrase = "k3Jx9QpL2mZt"
advskew = 5
announce = {count = 3, refresh_s = 60}
[[virtual_host]]
[[virtual_host]]
vhid = 4
passphrase_file = "secret"
unsigned_addresses = []
announce = {refresh_s = 0, interval_s = 1}
"""
    with pytest.raises(ConfigurationError, match=r"10\.0\.1\.0"):
        read(tmp_path, text.replace("{index}", "0/33"))
    first, second, third, fourth = read(tmp_path, text).virtual_hosts
    assert (first.name, second.name) == ("eth1/3", "eth2/3")
    assert (first.addresses, second.addresses) == (("10.0.1.0/32",), ("10.0.2.1/32",))
    assert second.unsigned_addresses == ("10.1.2.1/32",)
    assert second.settings.passphrase == b"k3Jx9QpL2mZt"
    assert (third.name, fourth.name) == ("eth1/4", "eth2/4")
    assert (third.unsigned_addresses, third.settings.passphrase) == ((), b"from file")
    assert third.settings.advskew == 5
    assert first.settings.announce == Announce(count=3, interval_s=0.0, refresh_s=60.0)
    assert third.settings.announce == Announce(count=3, interval_s=1.0, refresh_s=0.0)


def test_one_vhid_in_two_groups_is_two_virtual_hosts(tmp_path: Path) -> None:
    text = PASSPHRASE + HOST + HOST + 'destination = "224.0.0.19"\n'
    identities = [host.identity for host in read(tmp_path, text).virtual_hosts]
    assert identities == [("eth0", ("224.0.0.18",), 7), ("eth0", ("224.0.0.19",), 7)]


def test_includes_are_sorted_relative_and_read_once(tmp_path: Path) -> None:
    for name, vhid in (("b", 2), ("a", 1), ("c", 3)):
        write(tmp_path, HOST.replace("vhid = 7", f"vhid = {vhid}"), f"conf.d/{name}.toml")
    include = f'include = ["conf.d/b*", "{tmp_path}/conf.d/*.toml", "*.toml", "none/*"]\n'
    configuration = read(tmp_path, include + PASSPHRASE + HOST)
    assert [host.vhid for host in configuration.virtual_hosts] == [7, 2, 1, 3]
    names = [path.name for path in configuration.files]
    assert names == ["carp.toml", "b.toml", "a.toml", "c.toml"]
    assert configuration.virtual_hosts[1].settings.passphrase == b"k3Jx9QpL2mZt"


def test_a_passphrase_is_never_shown(tmp_path: Path) -> None:
    text = "[defaults]\npassphrase = 'swordfish'\n" + HOST
    configuration = read(tmp_path, text)
    (host,) = configuration.virtual_hosts
    assert host.settings.passphrase == b"swordfish"
    rich = list(host.settings.__rich_repr__())
    for shown in (repr(configuration), repr(host), str(host.settings), f"{host!r:}", repr(rich)):
        assert "swordfish" not in shown
        assert "(hidden)" in shown


def test_what_a_virtual_host_costs(tmp_path: Path) -> None:
    text = PASSPHRASE + HOST.replace('"eth0"', '"e[1-64]"').replace("7", '"1-255"')
    path = write(tmp_path, text.replace("192.0.2.10/24", "{10.0.0.1+index}/32"))
    load(path)
    tracemalloc.start()
    try:
        configuration = load(path)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(configuration.virtual_hosts) == 64 * 255
    assert held / len(configuration.virtual_hosts) < 208


numbers = st.integers(0, 1200).flatmap(
    lambda low: st.tuples(st.just(low), st.integers(low, low + 12))
)
parts = st.lists(
    st.integers(1, 255).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, 255))),
    min_size=1,
    max_size=3,
)
widths = st.integers(1, 4)
bases = st.integers(2**25, 2**32 - 2**17).map(lambda value: str(ipaddress.IPv4Address(value)))


def written(low: int, high: int, width: int) -> str:
    return f"{low:0{width}}" + (f"-{high:0{width}}" if high != low else "")


def may_be_virtual(text: str) -> bool:
    interface = ipaddress.IPv4Interface(text)
    address, network = interface.ip, interface.network
    ends = (network.network_address, network.broadcast_address)
    reserved = address.is_loopback or address.is_multicast or address.is_reserved
    return not reserved and (network.prefixlen >= 31 or address not in ends)


@settings(deadline=None)
@given(
    st.lists(st.tuples(numbers, widths), min_size=1, max_size=2),
    parts,
    bases,
    st.integers(1, 32),
    st.sampled_from(["vhid", "number", "index"]),
)
def test_ranges_and_templates_against_a_naive_expansion(
    brackets: list[tuple[tuple[int, int], int]],
    vhid_parts: list[tuple[int, int]],
    base: str,
    prefix: int,
    field: str,
) -> None:
    items = [
        f"{letter}[{written(low, high, width)}].5"
        for letter, ((low, high), width) in zip("ab", brackets, strict=False)
    ]
    vhids = list(dict.fromkeys(v for low, high in vhid_parts for v in range(low, high + 1)))
    with TemporaryDirectory() as directory:
        template = f"{{{base}+{field}}}/{prefix}"
        path = write(
            Path(directory),
            f"{PASSPHRASE}[[virtual_host]]\ninterface = {msgspec.json.encode(items).decode()}\n"
            f'vhid = "{",".join(map(str, vhids))}"\naddresses = "{template}"\n'
            'unsigned_addresses = "1.{vhid}.0.{vhid}"\n',
        )
        try:
            hosts = load(path).virtual_hosts
        except ConfigurationError as error:
            hosts, faults = [], error.faults

    interfaces = []
    for letter, ((low, high), width) in zip("ab", brackets, strict=False):
        for number in range(low, high + 1):
            pad = width if f"{low:0{width}}".startswith("0") else 0
            interfaces.append((f"{letter}{number:0{pad}}.5", number))
    expected = []
    for index, ((interface, number), vhid) in enumerate(product(interfaces, vhids)):
        added = {"vhid": vhid, "number": number, "index": index}[field]
        address = ipaddress.IPv4Address(base) + added
        expected.append(
            (interface, vhid, (f"{address}/{prefix}",), (f"1.{vhid}.0.{vhid}/32",)),
        )
    made = [(h.interface, h.vhid, h.addresses, h.unsigned_addresses) for h in hosts]
    if all(may_be_virtual(address) for _, _, (address,), _ in expected):
        assert made == expected
    else:
        assert made == []
        assert [fault.key for fault in faults] == ["addresses"]


@settings(deadline=None)
@given(parts)
def test_a_vhid_range_against_a_naive_expansion(vhid_parts: list[tuple[int, int]]) -> None:
    text = " , ".join(written(low, high, 1) for low, high in vhid_parts)
    naive = [vhid for low, high in vhid_parts for vhid in range(low, high + 1)]
    with TemporaryDirectory() as directory:
        path = write(Path(directory), PASSPHRASE + HOST.replace("vhid = 7", f'vhid = "{text}"'))
        if len(set(naive)) == len(naive):
            assert [host.vhid for host in load(path).virtual_hosts] == naive
        else:
            with pytest.raises(ConfigurationError) as caught:
                load(path)
            (fault,) = caught.value.faults
            assert "exists in this table" in fault.text or "more than 255" in fault.text


def warned(directory: Path, text: str, mode: int = 0o600) -> list[str]:
    path = write(directory, text, mode=mode)
    lines = load(path).warnings
    return [line.replace(str(directory), "DIR") for line in warning_lines(path, lines)]


def test_what_may_be_meant_is_only_warned_of(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("w")  # short: a long value is cut in a message
    assert warned(tmp_path, PASSPHRASE + HOST, mode=0o644) == [
        "FILE: defaults: passphrase = (hidden): others may read this file; use passphrase_file or "
        "encrypt the passphrase"
    ]
    assert warned(tmp_path, "") == ["FILE: no virtual host is configured"]
    script = write(tmp_path, "#!/bin/sh\n", "script")
    daemon = f'[daemon]\nnotify = "{script}"\n{PASSPHRASE}{HOST}'
    hooks = f'up = "{tmp_path}/none"\ndown = "{tmp_path}"\n'
    assert warned(tmp_path, daemon + hooks) == [
        'FILE: daemon: notify = "DIR/script": is not an executable file',
        'FILE: virtual_host[1]: up = "DIR/none": cannot be run: No such file or directory',
        'FILE: virtual_host[1]: down = "DIR": is not an executable file',
    ]
    script.chmod(0o700)
    assert warned(tmp_path, daemon + 'up = "pack.age:function"\n') == []


def test_an_address_that_two_virtual_hosts_of_an_interface_hold(tmp_path: Path) -> None:
    other = HOST.replace("7", '"8-10"').replace('"192', '["10.0.0.{vhid}", "192')
    other = other.replace('/24"', '/32"]')
    assert warned(tmp_path, PASSPHRASE + HOST + other) == [
        'FILE: virtual_host[2]: addresses = "192.0.2.10/32": held by both eth0/8 and '
        "eth0/7 (FILE:4: virtual_host[1]), and 2 more"
    ]
    elsewhere = HOST.replace("eth0", "eth1")
    assert warned(tmp_path, PASSPHRASE + HOST + elsewhere) == []
