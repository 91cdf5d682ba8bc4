#!/usr/bin/env python3
"""The page in a real browser: pictures, frames a second while virtual hosts change, its cost.

Two hosts with the same virtual hosts, 255 on an interface; the page is that of the backup, in a
headless Chromium (Debian package chromium). Then the master is killed, and every virtual host
changes its state. Frames are those that requestAnimationFrame gets.

  sudo PYTHONPATH=. .venv/bin/python benches/page.py [--instances 255,4080] [--pictures DIRECTORY]
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import select
import shlex
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from carp_fast.control.client import ControlClient
from carp_fast.control.protocol import ControlError
from carp_fast.lab.fleet import VHIDS_PER_SEGMENT, control_socket, run_command, spread
from carp_fast.lab.lab import Host, Lab, Process, wait_for

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--remote-debugging-pipe"),
)
DEADLINE_S = 60.0
COUNTER = """
(() => {
  const counted = window.counted = [];
  const tick = now => {
    counted.push(now);
    if (counted === window.counted) requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
})()
"""
READY = "document.querySelectorAll('#interfaces tr').length && document.title !== 'carp-fast'"


class View(NamedTuple):
    """A size of the window, and whether the colours are dark."""

    name: str
    width: int
    height: int
    dark: bool = False
    mobile: bool = False


VIEWS = (
    View("wide", 1440, 1000),
    View("dark", 1440, 1000, dark=True),
    View("narrow", 390, 844, mobile=True),
    View("narrow-dark", 390, 844, dark=True, mobile=True),
)


class Browser:
    """A Chromium that is spoken to by the DevTools protocol over pipes. A context manager."""

    def __init__(self) -> None:
        program = shutil.which("chromium")
        if program is None:
            raise SystemExit("needs the program chromium (Debian package chromium)")
        self._profile = tempfile.mkdtemp(prefix="carp-fast-page-")
        from_here, to_there = os.pipe()
        from_there, to_here = os.pipe()
        argv = [program, *OPTIONS, f"--user-data-dir={self._profile}", "about:blank"]
        line = f"exec {shlex.join(argv)} 3<&{from_here} 4>&{to_here}"
        self._process = subprocess.Popen(
            ["sh", "-c", line], pass_fds=(from_here, to_here), stderr=subprocess.DEVNULL
        )
        os.close(from_here)
        os.close(to_here)
        self._in, self._out = os.fdopen(to_there, "wb", 0), os.fdopen(from_there, "rb", 0)
        self._rest = b""
        self._numbers = itertools.count(1)
        self._session = ""

    def __enter__(self) -> Browser:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.ask("Page.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._in.close()
        self._process.terminate()
        self._process.wait(DEADLINE_S)
        self._out.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; events are left out."""
        number = next(self._numbers)
        request = {"id": number, "method": method, "params": parameters}
        if self._session:
            request["sessionId"] = self._session
        self._in.write(json.dumps(request).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                piece = self._out.read(1 << 20)
                if not piece:
                    raise SystemExit("the browser has ended")
                self._rest += piece
            line, _, self._rest = self._rest.partition(b"\0")
            answer: dict[str, Any] = json.loads(line)
            if answer.get("id") == number:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def run(self, code: str) -> Any:
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=code, returnByValue=True)
        if "exceptionDetails" in found:
            raise SystemExit(f"{code}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def use(self, view: View) -> None:
        """Gives the window this size and these colours."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=view.width,
            height=view.height,
            deviceScaleFactor=2 if view.mobile else 1,
            mobile=view.mobile,
        )
        scheme = "dark" if view.dark else "light"
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Writes a picture of the window, or of the whole page, as PNG."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def reachable(path: Path) -> Iterator[int]:
    """A port of 127.0.0.1 that leads to a Unix socket, which is in no network namespace."""

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as inner:
                inner.connect(str(path))
                ends = {self.request: inner, inner: self.request}
                while True:
                    for end in select.select(list(ends), [], [])[0]:
                        if not (data := end.recv(1 << 16)):
                            return
                        ends[end].sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forward) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def masters(control: Path) -> int:
    """The number of virtual hosts that are MASTER; -1: the daemon does not answer yet."""
    try:
        return ControlClient(control).overview().summary.master
    except ControlError:
        return -1


def settled(control: Path, master: int, instances: int) -> bool:
    """Whether a daemon has as many virtual hosts, none of them INIT."""
    try:
        found = ControlClient(control).overview().summary
    except ControlError:
        return False
    return (found.virtual_hosts, found.master, found.init) == (instances, master, 0)


def measure(instances: int, pictures: Path | None) -> None:
    counts = spread(instances, -(-instances // VHIDS_PER_SEGMENT))
    with Lab("carp-fast-page", segments=len(counts)) as lab, Browser() as browser:
        directory = lab.directory
        running: dict[str, Process] = {}
        argv_of: dict[str, list[str]] = {}
        for name, master in (("a", instances), ("b", 0)):
            keys = {"metrics": str(directory / f"{name}-metrics.sock")}
            argv_of[name] = run_command(counts, directory, name, keys, {"hold": "route"})
            running[name] = lab[name].start(argv_of[name], log=directory / f"{name}.log")
            control = control_socket(directory, name)
            text = f"{instances} virtual hosts of {name}"
            wait_for(lambda: settled(control, master, instances), 300, text)  # noqa: B023
        without_page = cpu(running["b"].pid, 10)
        with reachable(directory / "b-metrics.sock") as port:
            browser.use(VIEWS[0])
            begun_at = time.monotonic()
            browser.ask("Page.navigate", url=f"http://127.0.0.1:{port}/")
            wait_for(lambda: bool(browser.run(READY)), DEADLINE_S, "the page")
            print(f"{instances:,} virtual hosts: shown after {time.monotonic() - begun_at:.2f} s")
            time.sleep(2)
            take(browser, pictures, f"{instances}-backup")
            browser.use(VIEWS[0])
            time.sleep(1)
            idle = frames(browser, 5)
            with_page = cpu(running["b"].pid, 10)
            running["a"].kill()
            wait_for(lambda: masters(control) > 0, 60, "the first take-over")
            busy = frames(browser, 5)
            wait_for(lambda: masters(control) == instances, 120, "all MASTER")
            time.sleep(3)
            take(browser, pictures, f"{instances}-master")
            if pictures is not None:
                take_more(browser, pictures / str(instances), lab["b"], control)
                wait_for(lambda: masters(control) == instances, 120, "all MASTER again")
                running["a"] = lab["a"].start(argv_of["a"], log=directory / "a.log")
                wait_for(lambda: masters(control) < instances, 120, "the first hand-over")
                time.sleep(0.4)
                browser.picture(pictures / f"{instances}-hand-over.png")
        print(f"  daemon: {without_page:.2f} % of a core, {with_page:.2f} % with the page open")
        print(f"  frames: {idle} while nothing changes, {busy} while all become MASTER")
        for process in running.values():
            process.kill()


def cpu(pid: int, seconds: float) -> float:
    """What all threads of a process take, in percent of a core."""

    def used_s() -> float:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((each / "schedstat").read_text().split()[0]) for each in tasks) / 1e9

    before, begun_at = used_s(), time.monotonic()
    time.sleep(seconds)
    return (used_s() - before) / (time.monotonic() - begun_at) * 100


def frames(browser: Browser, seconds: float) -> str:
    """Frames a second, and the longest time between two."""
    browser.run(COUNTER)
    time.sleep(seconds)
    at: list[float] = browser.run("window.counted")
    gaps = [after - before for before, after in itertools.pairwise(at)]
    rate = (len(at) - 1) / (at[-1] - at[0]) * 1000
    return f"{rate:.1f} a second (the longest pause {max(gaps):.0f} ms)"


def take(browser: Browser, directory: Path | None, name: str) -> None:
    """Pictures in every view."""
    if directory is None:
        return
    directory.mkdir(parents=True, exist_ok=True)
    for view in VIEWS:
        browser.use(view)
        time.sleep(1)
        browser.picture(directory / f"{name}-{view.name}.png")


def take_more(browser: Browser, start: Path, host: Host, control: Path) -> None:
    """Pictures with problems, and of an explanation."""
    host.run(["ip", "link", "set", "s1", "down"])
    ControlClient(control).demote(20, "a slow uplink")
    time.sleep(8)
    for view in VIEWS:
        browser.use(view)
        time.sleep(1)
        browser.picture(start.with_name(f"{start.name}-problems-{view.name}.png"))
    browser.run("document.querySelector('#problems button').click()")
    for view in VIEWS:
        browser.use(view)
        time.sleep(1)
        browser.picture(start.with_name(f"{start.name}-explain-{view.name}.png"))
    browser.run("document.querySelector('#dialog').close()")
    ControlClient(control).undemote("a slow uplink")
    host.run(["ip", "link", "set", "s1", "up"])
    browser.use(VIEWS[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--instances", default="255,4080")
    parser.add_argument("--pictures", type=Path, metavar="DIRECTORY")
    options = parser.parse_args()
    for instances in map(int, options.instances.split(",")):
        measure(instances, options.pictures)


if __name__ == "__main__":
    main()
