"""The control fuzzer: clients of every manner on the control socket of a daemon that runs.

Whatever they write, in whatever pieces, and whether they read or not: others are answered, every
line that comes back is a document, no place and no descriptor stays taken, nothing is logged as an
exception. Some clients are of a user who may only read: whatever these write, they change nothing,
and root finds a place. The daemon runs in a network namespace of its own, which needs root.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import msgspec

from carp_fast.control.places import CLIENTS_MAX, CLIENTS_OF_A_USER_MAX
from carp_fast.lab.lab import Lab, LabTimeout, wait_for
from tests.fuzz import control_requests
from tests.fuzz.cases import Document, Failure
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.users import ALICE, READERS, connected_as

DEADLINE_S = 30.0
CLIENTS = 70  # more than there are places
READ_BYTES = 262_144
# What only a fault of the daemon logs.
FAULTS = re.compile(
    r"Traceback|failed inside|connection failed|failed halfway|never retrieved|AddressSanitizer"
    r"|runtime error:"
)
SHOWN = 300
# Keys of the answers to what changes something: a reload, a demotion.
CHANGED = {"changed", "total", "reasons"}


class Served:
    """A daemon with a few virtual hosts, its log read bit by bit."""

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="carp-fuzz")))
            lab = stack.enter_context(Lab(segments=1))
            table = {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"]}
            directory.chmod(0o711)
            daemon = {"record": 1024, "control_group": READERS}
            path = write_configuration(directory, "a", [table], daemon=daemon)
            self.daemon: RunningDaemon = start_daemon(lab["a"], path)
            self.daemon.wait_state("MASTER", DEADLINE_S)
            self.stack = stack.pop_all()
        self.path = str(self.daemon.control_socket)
        self.log = path.with_suffix(".log")
        self.read_to = 0
        self.settled = True
        self.descriptors = self.open_descriptors()

    def open_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.daemon.process.pid}/fd").iterdir()))

    def alive(self) -> bool:
        return self.daemon.process.alive()

    def faults(self) -> list[str]:
        """Lines of the log that tell of a fault, since the last call."""
        with self.log.open("rb") as log:
            log.seek(self.read_to)
            text = log.read().decode(errors="replace")
        self.read_to += len(text.encode())
        return text.splitlines() if FAULTS.search(text) else []

    def close(self) -> None:
        self.stack.close()


class Client:
    """One connection. `lines`: how many came back; `reader`: of a user who may only read."""

    def __init__(self, path: str, *, reader: bool = False) -> None:
        self.reader = reader
        self.socket = connected_as(ALICE if reader else None, Path(path))
        self.socket.setblocking(False)
        self.rest = b""
        self.lines = 0
        self.ended = False
        self.errors: set[str] = set()

    def write(self, data: bytes) -> None:
        """Writes as much as there is room for."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while data:
                data = data[self.socket.send(data) :]

    def read(self) -> None:
        """Reads what is there; every line must be a document."""
        try:
            data = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        self.ended = not data
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.lines += 1
            self.check(line)

    def check(self, line: bytes) -> None:
        try:
            answer = msgspec.json.decode(line)
        except msgspec.DecodeError as fault:
            raise Failure(f"an answer is not JSON: {fault}: {line[:SHOWN]!r}") from fault
        if not isinstance(answer, dict) or not ("state" in answer or "ok" in answer):
            raise Failure(f"an answer is no document: {line[:SHOWN]!r}")
        if self.reader and CHANGED & answer.keys():
            raise Failure(f"a user who may only read has changed something: {line[:SHOWN]!r}")
        if answer.get("ok") is False:
            error = answer.get("error")
            if not isinstance(error, str) or not error or "inside the daemon" in error:
                raise Failure(f"a refusal without a reason: {line[:SHOWN]!r}")
            self.errors.add(re.sub(r"\W+|\d+", " ", error)[:30])

    def shut(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def wait(self, end_at: float, *, lines: int | None = None) -> None:
        """Reads until its end, or until there are so many lines."""
        while not self.ended and (lines is None or self.lines < lines):
            ready, _, _ = select.select([self.socket], [], [], max(0, end_at - time.monotonic()))
            if not ready:
                raise Failure(f"not answered: within {DEADLINE_S:g} s, {self.lines} lines came")
            self.read()


class ControlWorld:
    """Clients of one daemon; at the end all of them leave."""

    def __init__(self, served: Served) -> None:
        self.served = served
        served.settled = False
        self.clients: dict[int, Client] = {}
        self.features: set[str] = set()

    def take(self, step: Document) -> None:
        if not self.served.alive():
            raise Failure(f"the daemon ended: {self.served.daemon.log[-2000:]}")
        if step["do"] == "ask":
            self.ask()
        elif step["do"] == "open":
            if step["client"] not in self.clients:
                reader = step.get("reader", False)
                self.clients[step["client"]] = Client(self.served.path, reader=reader)
        elif step["client"] in self.clients:
            client = self.clients[step["client"]]
            if step["do"] == "write":
                client.write(step["data"].encode("latin-1"))
            elif step["do"] == "close":
                self.leave(step["client"])
            else:
                {"read": client.read, "shut": client.shut}[step["do"]]()

    def leave(self, number: int) -> None:
        client = self.clients.pop(number)
        client.socket.close()
        self.features |= client.errors | {f"lines {min(client.lines, 9)}"}

    def ask(self) -> None:
        """Somebody else, who has a right to be answered."""
        of_root = sum(not client.reader for client in self.clients.values())
        if of_root >= CLIENTS_MAX - CLIENTS_OF_A_USER_MAX:
            return
        client = Client(self.served.path)
        client.write(b'{"command":"status"}\n')
        client.wait(time.monotonic() + DEADLINE_S, lines=1)
        client.socket.close()
        if client.errors:
            raise Failure(f"status is refused: {client.errors}, {len(self.clients)} clients")

    def end(self) -> None:
        end_at = time.monotonic() + DEADLINE_S
        for client in self.clients.values():
            client.shut()
        for number in list(self.clients):
            self.clients[number].wait(end_at)
            self.leave(number)
        self.wait_until_left()  # a busy daemon notices a moment later that they left
        self.fill()
        self.wait_until_left()
        faults = self.served.faults()
        if faults:
            raise Failure("the log tells of a fault: " + "\n".join(faults[-40:]))
        self.served.settled = True

    def wait_until_left(self) -> None:
        try:
            wait_for(self.is_as_before, DEADLINE_S, "as many descriptors as before")
        except LabTimeout as error:
            now = self.served.open_descriptors()
            raise Failure(f"descriptors stay: {now}, not {self.served.descriptors}") from error

    def is_as_before(self) -> bool:
        return self.served.open_descriptors() <= self.served.descriptors

    def fill(self) -> None:
        """Every place is free: as many clients as there are places are answered at once.

        The daemon frees a place a moment after it has closed the descriptor of the last client.
        """
        end_at = time.monotonic() + DEADLINE_S
        while errors := self.refused(end_at):
            if time.monotonic() > end_at:
                raise Failure(f"places stay taken: {errors}")

    def refused(self, end_at: float) -> set[str]:
        """What as many clients as there are places are answered that find none."""
        refusals: set[str] = set()
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(CLIENTS_MAX):
                clients.append(Client(self.served.path))
                stack.callback(clients[-1].socket.close)
            for client in clients:
                client.write(b'{"command":"?"}\n')
            for client in clients:
                client.wait(end_at, lines=1)
                refusals |= {error for error in client.errors if error.startswith("too many")}
        return refusals


class ControlFuzzer:
    """Draws what clients do; all worlds share a daemon until one fails."""

    name: ClassVar[str] = "control"
    seeds: ClassVar[int] = 100_000
    shrinking_s: ClassVar[float] = 60.0

    def __init__(self) -> None:
        self._served: Served | None = None

    def setup(self, random: Random) -> Document:
        return {}

    def world(self, setup: Document) -> ControlWorld:
        if self._served is not None and not (self._served.settled and self._served.alive()):
            self.close()
        if self._served is None:
            self._served = Served()
        return ControlWorld(self._served)

    def steps(self, random: Random, setup: Document, world: Any) -> Iterator[Document]:
        """A few busy clients, and now and then many."""
        clients = random.choice((1, 3, 8, CLIENTS))
        for _ in range(random.choice((10, 40, 150))):
            client = {"client": random.randrange(clients)}
            pick = random.random()
            if pick < 0.25:
                yield {"do": "open", "reader": random.random() < 0.4} | client
            elif pick < 0.7:
                data = control_requests.drawn(random)
                cut = random.randrange(len(data) + 1) if random.random() < 0.4 else len(data)
                for part in (data[:cut], data[cut:]):
                    if part:
                        yield {"do": "write", "data": part.decode("latin-1")} | client
            elif pick < 0.85:
                yield {"do": "read"} | client
            elif pick < 0.9:
                yield {"do": "shut"} | client
            elif pick < 0.95:
                yield {"do": "close"} | client
            else:
                yield {"do": "ask"}

    def close(self) -> None:
        if self._served is not None:
            self._served.close()
            self._served = None
