#!/usr/bin/env python3
"""What a scrape of the metrics costs: bytes, series, time, and how late the pump is meanwhile.

One host that is MASTER of every virtual host, 255 on an interface. Each document is asked for
repeatedly, one request after the other, as text, and as OpenMetrics, compressed. Processor time is
what a scrape adds to that of all threads; the worker's is that of the thread, besides the main one,
to which it adds most. Lateness is that of the pump's own histogram, so it is the bound of a bucket.

  sudo PYTHONPATH=. .venv/bin/python benches/scrapes.py [--instances 1,4080,65280] [--times 20]
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from carp_fast.bench.usage import memory
from carp_fast.control.client import ControlClient
from carp_fast.control.protocol import ControlError
from carp_fast.lab.fleet import VHIDS_PER_SEGMENT, run_command, spread
from carp_fast.lab.lab import Host, Lab, wait_for

TEXT, OPENMETRICS = "text/plain", "application/openmetrics-text;version=1.0.0"
DOCUMENTS = (
    ("/metrics", TEXT, ""),
    ("/metrics", OPENMETRICS, "gzip"),
    ("/metrics/virtual_hosts", TEXT, ""),
    ("/metrics/virtual_hosts", OPENMETRICS, "gzip"),
)
SETTLED_S = 10.0
BUCKET = re.compile(r'^carp_fast_pump_lateness_seconds_bucket{le="(.+)"} (.+)$', re.MULTILINE)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Scrape(NamedTuple):
    """An answer: seconds until it was read, and its bytes as they were sent and as text."""

    seconds: float
    size: int
    text: bytes


def scrape(path: Path, target: str = "/metrics", accept: str = TEXT, encoding: str = "") -> Scrape:
    connection = _Unix(path)
    begun_at = time.perf_counter()
    connection.request("GET", target, headers={"Accept": accept, "Accept-Encoding": encoding})
    answer = connection.getresponse()
    body = answer.read()
    seconds = time.perf_counter() - begun_at
    connection.close()
    assert answer.status == 200, body
    return Scrape(seconds, len(body), gzip.decompress(body) if encoding else body)


def cpu_s(pid: int) -> dict[str, float]:
    """Processor time of each thread so far, seconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {each.name: int((each / "schedstat").read_text().split()[0]) / 1e9 for each in tasks}


def buckets(path: Path) -> dict[float, float]:
    found = BUCKET.findall(scrape(path).text.decode())
    return {float("inf" if bound == "+Inf" else bound): float(count) for bound, count in found}


def late_s(before: dict[float, float], after: dict[float, float], share: float) -> float:
    """The bound that `share` of the turns between two scrapes did not exceed."""
    counts = {bound: after[bound] - before[bound] for bound in after}
    wanted = share * counts[float("inf")]
    return min(bound for bound, count in counts.items() if count >= wanted)


@contextmanager
def running(host: Host, directory: Path, instances: int, path: Path | None) -> Iterator[int]:
    """A daemon that is MASTER of as many virtual hosts; its pid."""
    counts = spread(instances, -(-instances // VHIDS_PER_SEGMENT))
    keys = {} if path is None else {"metrics": str(path), "metrics_detail": "full"}
    argv = run_command(counts, directory, host.name, keys, {"hold": "route"})
    process = host.start(argv, log=directory / "log")
    control = directory / f"{host.name}.sock"
    try:
        wait_for(lambda: masters(control) == instances, 180, f"{instances} MASTERs")
        time.sleep(SETTLED_S)
        yield process.pid
    finally:
        process.stop(60)


def masters(control: Path) -> int:
    """The number of virtual hosts that are MASTER; -1: the daemon does not answer yet."""
    try:
        return ControlClient(control).status(state="INIT").summary.master
    except ControlError:
        return -1


def measure(instances: int, times: int) -> None:
    with Lab("carp-fast-scrapes", segments=-(-instances // VHIDS_PER_SEGMENT)) as lab:
        host, path = lab["a"], lab.directory / "metrics.sock"
        with running(host, lab.directory, instances, None) as pid:
            without = memory([pid]).pss_bytes
        with running(host, lab.directory, instances, path) as pid:
            report(instances, pid, path, times, without)


def ask(made: list[Scrape], times: int, *request: Any) -> None:
    """Asks so often for a document."""
    made.extend(scrape(*request) for _ in range(times))


def report(instances: int, pid: int, path: Path, times: int, without: int) -> None:
    window = Window(pid, path)
    idle = window.over(lambda: time.sleep(20))
    print(f"{instances:,} virtual hosts; lateness p99.9 without scrapes <= {idle.late * 1e3:g} ms")
    for target, accept, encoding in DOCUMENTS:
        made: list[Scrape] = []
        repeat = partial(ask, made, times, path, target, accept, encoding)
        busy = window.over(repeat)
        series = sum(not line.startswith(b"#") for line in made[0].text.splitlines())
        seconds = [each.seconds for each in made]
        used = {
            thread: (cpu - idle.cpu.get(thread, 0.0) / idle.seconds * busy.seconds) / times
            for thread, cpu in busy.cpu.items()
        }
        worker = max(cpu for thread, cpu in used.items() if thread != str(pid))
        kind = "OpenMetrics" if accept == OPENMETRICS else "text"
        print(
            f"  {target:23} {kind:11} {encoding or '-':4}  {series:7,} series"
            f" {made[0].size:10,} bytes  {statistics.median(seconds):.3f} s"
            f" (max {max(seconds):.3f})  processor {sum(used.values()):.3f} s,"
            f" the worker {worker:.3f} s"
            f"  lateness p99.9 <= {busy.late * 1e3:g} ms"
        )
    after = memory([pid]).pss_bytes
    print(f"  memory: {without / 1e6:.1f} MB without metrics, {after / 1e6:.1f} MB with them")


class Passed(NamedTuple):
    """What a time brought: its length, processor time, and the lateness of the pump."""

    seconds: float
    cpu: dict[str, float]  # by thread
    late: float


class Window:
    """Measures a daemon while something is done."""

    def __init__(self, pid: int, path: Path) -> None:
        self._pid = pid
        self._path = path

    def over(self, act: Callable[[], None]) -> Passed:
        before, used, begun_at = buckets(self._path), cpu_s(self._pid), time.perf_counter()
        act()
        seconds = time.perf_counter() - begun_at
        cpu = {thread: cpu - used.get(thread, 0.0) for thread, cpu in cpu_s(self._pid).items()}
        return Passed(seconds, cpu, late_s(before, buckets(self._path), 0.999))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--instances", default="1,4080,65280")
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    for instances in map(int, options.instances.split(",")):
        measure(instances, options.times)


if __name__ == "__main__":
    main()
