"""IPv4 addresses held by local routes: what an address of the interface does, they do, too.

One pair of daemons for all of it: a is MASTER, b looks from the wire. Tests leave the scene as they
found it. Must not know how routes are added.
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.lab.pings import Pinger
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths(
        "send", "receive", "hold", reason="the ways to hold an address are compared"
    ),
]

SBIN = "/usr/sbin:/usr/bin:/sbin:/bin"  # not always on PATH
PROTOCOL = "112"
ETH_P_ARP = 0x0806
SOON_S = 10.0
BY_ROUTE, UNSIGNED, SECOND = "10.1.1.1", "10.1.2.1", "10.1.1.2"
AUTO, UNCOVERED, PLAIN = "10.1.1.3", "172.30.0.4", "10.1.1.5"
ALONE, ALONE_AUTO = "10.2.1.1", "10.2.1.2"  # on s2
ROUTES = {BY_ROUTE, UNSIGNED, SECOND, AUTO}
FAST = {"dead_ratio": 1}


def routes(host: Host, interface: str = "s1") -> set[str]:
    """The addresses that local routes of ours hold on an interface."""
    words = f"ip -j route show table local type local proto {PROTOCOL} dev {interface}"
    listed = host.run(words.split(), check=False).stdout
    return {route["dst"] for route in json.loads(listed or "[]")}


def held(host: Host, interface: str = "s1") -> set[str]:
    """The addresses of an interface, with prefix length."""
    links = json.loads(host.run(["ip", "-j", "-4", "addr", "show", "dev", interface]).stdout)
    return {f"{e['local']}/{e['prefixlen']}" for link in links for e in link["addr_info"]}


def ip(host: Host, words: str) -> None:
    host.run(["ip", *words.split()])


def sysctl(host: Host, name: str, value: int) -> None:
    host.run(["sysctl", "-qw", f"net.ipv4.{name}={value}"])


def tables() -> list[dict[str, Any]]:
    return [
        {
            "interface": "s1",
            "vhid": 1,
            "addresses": [f"{BY_ROUTE}/16"],
            "unsigned_addresses": [f"{UNSIGNED}/16"],
            "hold": "route",
        },
        {"interface": "s1", "vhid": 2, "addresses": [f"{SECOND}/32"], "hold": "route"},
        {"interface": "s1", "vhid": 3, "addresses": [f"{AUTO}/16"], "hold": "auto"},
        {"interface": "s1", "vhid": 4, "addresses": [f"{UNCOVERED}/24"], "hold": "auto"},
        {"interface": "s1", "vhid": 5, "addresses": [f"{PLAIN}/16"]},
        {
            "interface": "s2",
            "vhid": 1,
            "addresses": [f"{ALONE}/16"],
            "hold": "route",
            "source": "10.1.0.1",
        },
        {
            "interface": "s2",
            "vhid": 2,
            "addresses": [f"{ALONE_AUTO}/16"],
            "hold": "auto",
            "source": "10.1.0.1",
        },
    ]


class Pair:
    """Host a with a daemon that is MASTER of all, and host b."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.a, self.b = lab.hosts
        self.directory = directory
        self.daemon: RunningDaemon
        self.start()

    def write(self, changed: list[dict[str, Any]] | None = None) -> Path:
        return write_configuration(self.directory, "a", changed or tables(), defaults=FAST)

    def start(self) -> None:
        self.daemon = start_daemon(self.a, self.write())
        self.settle()

    def start_again(self) -> None:
        """Starts the daemon after a crash: what that left is gone before it is MASTER."""
        self.daemon = start_daemon(self.a, self.write())
        assert routes(self.a) <= {"10.1.1.99"}
        self.daemon.wait_state("MASTER", 10)

    def settle(self) -> None:
        self.daemon.wait_state("MASTER", 10)
        wait_for(lambda: routes(self.a) == ROUTES, 10, "the routes of s1")
        wait_for(lambda: routes(self.a, "s2") == {ALONE, ALONE_AUTO}, 10, "the routes of s2")

    def explain(self, interface: str, vhid: int) -> str:
        """What `carp-fast explain` prints."""
        words = ["explain", "--control-socket", str(self.daemon.control_socket)]
        command = [sys.executable, "-m", "carp_fast", *words, interface, str(vhid)]
        return str(self.a.run(command).stdout)

    def has_problems(self, vhid: int, problems: dict[str, str]) -> bool:
        return bool(self.daemon.virtual_host("s1", vhid)["address_problems"] == problems)

    def held_by(self, interface: str, vhid: int) -> str:
        return str(self.daemon.virtual_host(interface, vhid)["held_by"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with ExitStack() as opened:
        lab = opened.enter_context(Lab(segments=2))
        yield Pair(lab, tmp_path_factory.mktemp("routes"))


# ------------------------------------------------------------------------------------ which kind


def test_routes_where_they_do_and_addresses_where_they_do_not(pair: Pair) -> None:
    assert routes(pair.a) == ROUTES
    assert held(pair.a) == {"10.1.0.1/16", f"{UNCOVERED}/24", f"{PLAIN}/16"}
    kinds = [pair.held_by("s1", vhid) for vhid in range(1, 6)]
    assert kinds == ["route", "route", "route", "address", "address"]
    said = pair.explain("s1", 4)
    assert "s1 has no address of its own in 172.30.0.0/24" in said
    assert "IPv4 by local routes" in pair.explain("s1", 3)


# ------------------------------------------------------------------------- as an address does


def ping(pair: Pair, *targets: str) -> None:
    """Pings addresses from host b until each has answered."""
    now_ns = time.monotonic_ns()
    with Pinger(pair.b, targets) as pinger:
        wait_for(lambda: pinger.answered_since(now_ns), 10, f"answers of {', '.join(targets)}")


@contextmanager
def arp_of(host: Host) -> Iterator[socket.socket]:
    with host.inside():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
        sock.bind(("s1", ETH_P_ARP))
    with sock:
        sock.settimeout(5)
        yield sock


def mac_of(host: Host) -> bytes:
    (link,) = json.loads(host.run(["ip", "-j", "link", "show", "s1"]).stdout)
    return bytes.fromhex(link["address"].replace(":", ""))


def ask(pair: Pair, sender: str, target: str) -> bytes:
    """The MAC that answers an ARP request of host b."""
    mine = mac_of(pair.b)
    request = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mine + socket.inet_aton(sender)
    request += bytes(6) + socket.inet_aton(target)
    with arp_of(pair.b) as sock:
        sock.send(b"\xff" * 6 + mine + struct.pack("!H", ETH_P_ARP) + request)
        while True:
            frame = sock.recv(2048)
            if frame[20:22] == b"\0\2" and frame[28:32] == socket.inet_aton(target):
                return frame[22:28]


@pytest.mark.parametrize("target", sorted(ROUTES))
def test_arp_requests_and_probes_are_answered(pair: Pair, target: str) -> None:
    assert ask(pair, "10.1.0.2", target) == mac_of(pair.a)
    assert ask(pair, "0.0.0.0", target) == mac_of(pair.a)


@pytest.mark.parametrize(
    "name",
    ["arp_filter=1", "rp_filter=1", "rp_filter=2", "arp_announce=2"],
)
def test_settings_of_the_interface_that_an_address_bears(pair: Pair, name: str) -> None:
    key, _, value = name.partition("=")
    path = f"conf.s1.{key}"
    before = pair.a.run(["sysctl", "-n", f"net.ipv4.{path}"]).stdout.strip()
    sysctl(pair.a, path, int(value))
    try:
        assert ask(pair, "10.1.0.2", BY_ROUTE) == mac_of(pair.a)
        ping(pair, BY_ROUTE)
    finally:
        sysctl(pair.a, path, int(before))


def test_ping_tcp_and_udp(pair: Pair) -> None:
    ping(pair, *sorted(ROUTES))
    for bound in (BY_ROUTE, "0.0.0.0"):
        with pair.a.inside():
            listener = socket.create_server((bound, 0))
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            udp.bind((bound, 0))
        with listener, udp:
            port = listener.getsockname()[1]
            with pair.b.inside():
                calling = socket.create_connection((BY_ROUTE, port), 5)
            with calling, listener.accept()[0] as accepted:
                assert accepted.getsockname()[0] == calling.getpeername()[0] == BY_ROUTE
                listed = pair.a.run(["ss", "-tanH"]).stdout
                assert f"{BY_ROUTE}:{port}" in listed
            with pair.b.inside():
                sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with sending:
                sending.sendto(b"hello", (BY_ROUTE, udp.getsockname()[1]))
                udp.settimeout(5)
                assert udp.recv(64) == b"hello"


def test_it_is_a_source_when_bound_and_never_otherwise(pair: Pair) -> None:
    with pair.a.inside():
        plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        plain.connect(("10.1.0.2", 9))
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind((BY_ROUTE, 0))
    with pair.b.inside():
        hearing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hearing.bind(("10.1.0.2", 0))
    with plain, bound, hearing:
        assert plain.getsockname()[0] == "10.1.0.1"
        hearing.settimeout(5)
        bound.sendto(b"from the virtual address", hearing.getsockname())
        assert hearing.recvfrom(64)[1][0] == BY_ROUTE


@contextmanager
def blackhole(host: Host, words: str) -> Iterator[None]:
    """A policy rule before the table `local`, to a table that drops everything."""
    ip(host, "route add blackhole default table 100")
    ip(host, "rule add pref 200 lookup local")
    ip(host, "rule del pref 0 lookup local")
    ip(host, f"rule add pref 100 {words} lookup 100")
    try:
        yield
    finally:
        ip(host, "rule add pref 0 lookup local")
        ip(host, "rule del pref 200 lookup local")
        ip(host, "rule del pref 100")
        ip(host, "route del blackhole default table 100")


@pytest.mark.parametrize("target", [BY_ROUTE, PLAIN])
@pytest.mark.parametrize("direction", ["from", "to"])
def test_policy_rules_apply_as_to_an_address(pair: Pair, target: str, direction: str) -> None:
    with pair.a.inside():
        listener = socket.create_server(("0.0.0.0", 0))
    port = listener.getsockname()[1]

    def reached(address: str) -> bool:
        with pair.b.inside():
            try:
                socket.create_connection((address, port), 2).close()
            except TimeoutError:
                return False
        return True

    with listener:
        with blackhole(pair.a, f"{direction} {target}"):
            assert not reached(target)
            assert reached(SECOND)
            assert routes(pair.a) == ROUTES
        assert reached(target)


NGINX = """daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;
events {{ }}
http {{ access_log off; server {{ listen {address}:8080; return 200 nginx; }} }}
"""
HAPROXY = """defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend f
  bind {address}:8080
  http-request return status 200 content-type text/plain string haproxy
"""
# Those that are installed; Python's own is.
SERVERS = ["python", *(name for name in ("nginx", "haproxy") if shutil.which(name, path=SBIN))]


def server(name: str, address: str, directory: Path) -> list[str]:
    """Writes the configuration of a web server on port 8080; returns its command line."""
    if name == "python":
        return [sys.executable, "-m", "http.server", "--bind", address, "8080"]
    path = directory / f"{name}.conf"
    text = {"nginx": NGINX, "haproxy": HAPROXY}[name]
    path.write_text(text.format(directory=directory, address=address))
    program = str(shutil.which(name, path=SBIN))
    if name == "nginx":
        return [program, "-e", "stderr", "-p", str(directory), "-c", str(path)]
    return [program, "-db", "-f", str(path)]


def answers(client: Host, address: str) -> bool:
    with client.inside():
        try:
            calling = socket.create_connection((address, 8080), 1)
        except OSError:
            return False
    with calling:
        calling.settimeout(5)
        calling.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b" 200 " in calling.recv(64)


@pytest.mark.parametrize("name", SERVERS)
def test_servers_bind_to_it(pair: Pair, name: str, tmp_path: Path) -> None:
    argv = server(name, BY_ROUTE, tmp_path)
    running = pair.a.start(argv, log=tmp_path / "log")
    try:
        wait_for(lambda: answers(pair.b, BY_ROUTE), 10, f"an answer of {name}")
    finally:
        running.kill()
    # A host that is not MASTER has no such address, be it held by a route or not.
    assert pair.b.run(argv, check=False).returncode != 0
    sysctl(pair.b, "ip_nonlocal_bind", 1)
    try:
        running = pair.b.start(argv, log=tmp_path / "log")
        bound = f"{BY_ROUTE}:8080"
        wait_for(lambda: bound in pair.b.run(["ss", "-tlnH"]).stdout, 10, f"{name} listens")
    finally:
        running.kill()
        sysctl(pair.b, "ip_nonlocal_bind", 0)


def test_nft_takes_it_for_an_address_of_this_host(pair: Pair, nft: str) -> None:
    rules = (
        "add table ip t; add chain ip t c { type filter hook prerouting priority 0; };"
        f" add rule ip t c ip daddr {BY_ROUTE} fib daddr type local counter"
    )
    pair.a.run([nft, rules])
    try:
        ping(pair, BY_ROUTE)
        assert "counter packets 0" not in pair.a.run([nft, "list", "table", "ip", "t"]).stdout
    finally:
        pair.a.run([nft, "delete", "table", "ip", "t"])


@pytest.fixture(scope="module")
def nft() -> str:
    path = shutil.which("nft", path=SBIN)
    if path is None:
        pytest.skip("needs the program nft (Debian package nftables)")
    return path


# --------------------------------------------------------------------------------- what goes away


def test_a_route_survives_down_and_up_and_loss_of_the_carrier(pair: Pair) -> None:
    # A route of the same form, which no daemon takes back.
    ip(pair.a, "route add local 10.1.9.9/32 dev s1 table local proto 111 scope host")
    try:
        ping(pair, "10.1.9.9")
        ip(pair.a, "link set s1 down")
        ip(pair.a, "link set s1 up")
        ip(pair.b, "link set s1 down")  # the carrier of a's end
        ip(pair.b, "link set s1 up")
        ping(pair, "10.1.9.9")
    finally:
        ip(pair.a, "route del local 10.1.9.9/32 dev s1 table local proto 111")
    pair.settle()


def test_a_route_that_another_program_removes_is_back_within_1_s(pair: Pair) -> None:
    before = pair.daemon.counters("s1", 1)["addresses_restored"]
    ip(pair.a, f"route del local {BY_ROUTE}/32 dev s1 table local proto {PROTOCOL}")
    wait_for(lambda: BY_ROUTE in routes(pair.a), SOON_S, "the route again")
    assert pair.daemon.counters("s1", 1)["addresses_restored"] == before + 1
    assert pair.daemon.log_lines("had no local route any more")


def test_routes_that_vanish_with_the_last_address_are_back_within_1_s(pair: Pair) -> None:
    ip(pair.a, "addr del 10.2.0.1/16 dev s2")
    try:
        # By route whatever happens; the automatic one as an address: it would not be reachable.
        wait_for(lambda: ALONE in routes(pair.a, "s2"), SOON_S, "the route again")
        wait_for(lambda: held(pair.a, "s2") == {f"{ALONE_AUTO}/16"}, SOON_S, "the address")
        assert pair.held_by("s2", 2) == "address"
    finally:
        ip(pair.a, "addr add 10.2.0.1/16 dev s2")
    # It keeps the address until it is no longer MASTER.
    assert pair.held_by("s2", 2) == "address"
    ip(pair.a, "link set s2 down")
    pair.daemon.wait_state("INIT", 10, [("s2", 2)])
    ip(pair.a, "link set s2 up")
    pair.settle()


def test_arp_ignore_turns_automatic_routes_into_addresses(pair: Pair) -> None:
    sysctl(pair.a, "conf.s1.arp_ignore", 1)
    try:
        wait_for(lambda: f"{AUTO}/16" in held(pair.a), 10, "the address")
        assert routes(pair.a) == ROUTES - {AUTO}
        assert ask(pair, "10.1.0.2", AUTO) == mac_of(pair.a)
        assert "arp_ignore of s1 is 1" in pair.explain("s1", 3)
    finally:
        sysctl(pair.a, "conf.s1.arp_ignore", 0)
    wait_for(lambda: "then by routes" in pair.explain("s1", 3), 10, "the change back")
    assert f"{AUTO}/16" in held(pair.a), "what is held is not converted back"
    ip(pair.a, "link set s1 down")
    pair.daemon.wait_state("INIT", 10, [("s1", 3)])
    ip(pair.a, "link set s1 up")
    pair.settle()


# -------------------------------------------------------------------------- ours and others' routes


def test_a_reload_converts_nothing_that_is_held(pair: Pair) -> None:
    changed = tables()
    del changed[0]["hold"]
    pair.write(changed)
    pair.daemon.reload()
    assert BY_ROUTE in routes(pair.a)
    assert "until it is no longer MASTER" in pair.explain("s1", 1)
    pair.write()
    pair.daemon.reload()
    assert routes(pair.a) == ROUTES


def test_what_another_program_has_is_left_alone(pair: Pair) -> None:
    ip(pair.a, "route add local 10.1.1.77/32 dev s1 table local proto static scope host")
    ip(pair.a, "addr add 10.1.1.78/16 dev lo")
    more = [
        {"interface": "s1", "vhid": vhid, "addresses": [f"10.1.1.{vhid}/16"], "hold": "route"}
        for vhid in (77, 78)
    ]
    pair.write(tables() + more)
    pair.daemon.reload()
    pair.daemon.wait_state("MASTER", 10)
    for vhid in (77, 78):
        foreign = {f"10.1.1.{vhid}/16": "address_foreign"}
        wait_for(partial(pair.has_problems, vhid, foreign), 10, "address_foreign")
    pair.write()
    pair.daemon.reload()
    shown = pair.a.run(["ip", "route", "show", "table", "local", "10.1.1.77"]).stdout
    assert "proto static" in shown
    ip(pair.a, "route del local 10.1.1.77/32 dev s1 table local proto static")
    ip(pair.a, "addr del 10.1.1.78/16 dev lo")


def test_what_a_crash_left_goes_at_the_next_start_and_all_at_the_end(pair: Pair) -> None:
    foreign = "route add local 10.1.1.99/32 dev s1 table local proto 112 scope host"
    ip(pair.a, foreign)  # of another configuration
    pair.daemon.kill()
    assert routes(pair.a) == ROUTES | {"10.1.1.99"}
    pair.start_again()
    assert pair.daemon.log_lines("addresses left by the last run, 6 of them local routes")
    assert pair.daemon.stop() == 0
    assert (routes(pair.a), routes(pair.a, "s2")) == ({"10.1.1.99"}, set())
    assert held(pair.a) == {"10.1.0.1/16"}
    ip(pair.a, foreign.replace("add", "del", 1))
    pair.start()
