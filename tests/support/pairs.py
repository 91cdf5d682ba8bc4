"""The other side of a pair: real ucarp, real keepalived, and frames that a test sends itself.

Holds how these programs are started on a lab's host, how their state is read, and a packet socket
for what no program would send.  It must not know carp-fast; its daemon is in daemons.py.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from carp_fast.closing import Closing
from carp_fast.lab.lab import Host, LabTimeout, Process, interface_name, virtual_address, wait_for
from carp_fast.lab.observer import Heard, Key, Observer
from carp_fast.net.kernel import ETH_P_ALL, ETH_P_IP, PROTOCOL_CARP
from tests.support.daemons import PASSPHRASE

PROTOCOL_VRRP = PROTOCOL_CARP
GROUP = "224.0.0.18"

# What ucarp runs; the extra parameter names the file that keeps the record of it.
_UP = """#!/bin/sh
ip addr add "$2/32" dev "$1"
echo "up $1 $2" >> "$3"
"""
_DOWN = """#!/bin/sh
ip addr del "$2/32" dev "$1" 2> /dev/null
echo "down $1 $2" >> "$3"
"""


class Ucarp:
    """One running ucarp: one virtual host."""

    def __init__(self, process: Process, record: Path, interface: str, vhid: int, address: str):
        self.process = process
        self.interface = interface
        self.vhid = vhid
        self.address = address
        self._record = record

    def __repr__(self) -> str:
        return f"<ucarp {self.interface}/{self.vhid} {self.states}>"

    @property
    def states(self) -> list[str]:
        """The states it has switched to, oldest first."""
        return re.findall(r"Switching to state: (\w+)", self.process.output())

    @property
    def state(self) -> str:
        return (self.states or ["INIT"])[-1]

    @property
    def scripts(self) -> list[str]:
        """The scripts that have run to their end, as "up IF ADDRESS" or "down IF ADDRESS"."""
        return self._record.read_text().splitlines() if self._record.exists() else []

    @property
    def up(self) -> str:
        return f"up {self.interface} {self.address}"

    @property
    def down(self) -> str:
        return f"down {self.interface} {self.address}"


def start_ucarp(
    host: Host,
    directory: Path,
    segment: int,
    vhid: int,
    *,
    address: str | None = None,
    passphrase: str = PASSPHRASE,
    advskew: int = 0,
    preempt: bool = False,
    arguments: Sequence[str] = (),
) -> Ucarp:
    """Starts ucarp on a host; `address` (default: the lab's for that vhid) is added as a /32.

    `arguments` are further options of ucarp(8), and win over those given here.
    """
    address = address or virtual_address(segment, vhid)
    interface = interface_name(segment)
    name = f"ucarp-{host.name}-{interface}-{vhid}"
    scripts = [directory / "ucarp-up", directory / "ucarp-down"]
    for script, text in zip(scripts, (_UP, _DOWN), strict=True):
        if not script.exists():
            script.write_text(text)
            script.chmod(0o755)
    record = directory / f"{name}.scripts"
    argv = ["ucarp", "--interface", interface, "--srcip", host.address(segment)]
    argv += ["--vhid", str(vhid), "--pass", passphrase, "--addr", address]
    argv += ["--advskew", str(advskew), "--xparam", str(record)]
    argv += ["--upscript", str(scripts[0]), "--downscript", str(scripts[1])]
    argv += ["--preempt"] * preempt + list(arguments)
    process = host.start(argv, log=directory / f"{name}.log")
    return Ucarp(process, record, interface, vhid, address)


def wait_ucarps(
    ucarps: Iterable[Ucarp], predicate: Callable[[Ucarp], object], deadline_s: float, what: str
) -> None:
    """Returns when the predicate holds for all of them; AssertionError naming those it does not."""
    waiting = list(ucarps)

    def fulfilled() -> bool:
        waiting[:] = [ucarp for ucarp in waiting if not predicate(ucarp)]
        ended = [ucarp for ucarp in waiting if not ucarp.process.alive()]
        assert not ended, f"{ended}: ended: {ended[0].process.output()}"
        return not waiting

    try:
        wait_for(fulfilled, deadline_s, what)
    except LabTimeout as reason:
        raise AssertionError(f"{reason}: {waiting}") from None


def wait_ucarp_state(ucarps: Iterable[Ucarp], state: str, deadline_s: float) -> None:
    """Returns when all have switched to `state`, and run the script that belongs to it."""

    def there(ucarp: Ucarp) -> bool:
        script = ucarp.up if state == "MASTER" else ucarp.down
        return ucarp.state == state and ucarp.scripts[-1:] == [script]

    wait_ucarps(ucarps, there, deadline_s, f"ucarp {state}, its script run")


def start_keepalived(host: Host, directory: Path, configuration: str) -> Process:
    """Starts keepalived (VRRP only) on a host, in the foreground."""
    path = directory / f"keepalived-{host.name}.conf"
    path.write_text(configuration)
    pid_files = [str(directory / f"keepalived-{host.name}{part}.pid") for part in ("", "-vrrp")]
    argv = ["keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file", str(path)]
    argv += ["--pid", pid_files[0], "--vrrp_pid", pid_files[1]]
    return host.start(argv, log=path.with_suffix(".log"))


def wait_advertisements(
    observer: Observer, source: Host, keys: Iterable[Key], count: int, deadline_s: float
) -> None:
    """Returns when `source` has sent `count` more advertisements for each of these."""
    wanted = set(keys)
    before = observer.advertisements(source)

    def sent(key: Key, heard: Heard) -> int:
        return heard.frames - (before[key].frames if key in before else 0)

    def enough() -> bool:
        now = observer.advertisements(source)
        return all(key in now and sent(key, now[key]) >= count for key in wanted)

    what = f"{count} advertisements of host {source.name} for each"
    observer.wait_until(enough, deadline_s, what)


@contextmanager
def membership(host: Host, segments: Iterable[int]) -> Iterator[None]:
    """The host is a member of the CARP group within the `with`: over a macvlan, an observer on a
    host without a daemon hears nothing otherwise.
    """
    with ExitStack() as stack, host.inside():
        for segment in segments:
            member = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            index = socket.if_nametoindex(interface_name(segment))
            request = struct.pack("4s4si", socket.inet_aton(GROUP), bytes(4), index)
            member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        yield


class Wire(Closing):
    """A packet socket on one interface of a host: sends any frame, hears protocol 112.

    A context manager.  It hears what arrives from the moment it was made, also what a program at
    the ingress takes, as the kernel gives that to packet sockets for all protocols alone.
    """

    def __init__(self, host: Host, segment: int):
        interface = interface_name(segment)
        with host.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind((interface, ETH_P_ALL))
        self.mac: bytes = self._socket.getsockname()[4]

    def close(self) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def heard(self, deadline_s: float) -> Iterator[bytes]:
        """The frames of protocol 112 as they arrive; AssertionError after `deadline_s` in all."""
        end_at = time.monotonic() + deadline_s
        while (left_s := end_at - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                frame, origin = self._socket.recvfrom(2048)
            except TimeoutError:
                break
            if (
                origin[2] != socket.PACKET_OUTGOING
                and origin[1] == ETH_P_IP
                and frame[23] == PROTOCOL_CARP
            ):
                yield frame
        raise AssertionError(f"what was awaited was not heard within {deadline_s:g} s")
