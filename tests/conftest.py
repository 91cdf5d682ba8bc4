"""What tests of every kind share: the marker `root`, labs, and programs from the system.

A test that cannot run says by name what it lacks and counts as skipped; where the environment
has CARP_FAST_NO_SKIPS=1, nothing may be lacking and it counts as failed.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest

from carp_fast.lab.lab import Lab

DEBIAN_PACKAGES = {
    "faketime": "faketime",
    "ip": "iproute2",
    "keepalived": "keepalived",
    "tcpdump": "tcpdump",
    "tshark": "tshark",
    "ucarp": "ucarp",
    "unshare": "util-linux",
}
NO_SKIPS = os.environ.get("CARP_FAST_NO_SKIPS") == "1"

Outcome = TypeVar("Outcome", pytest.TestReport, pytest.CollectReport)


def refuse_skip(report: Outcome) -> Outcome:
    """Turns a skip into a failure where none is allowed; an expected failure is no skip."""
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"CARP_FAST_NO_SKIPS=1: {reason}"
    return report


def pytest_configure() -> None:
    """Has programs that tests start react to signals as usual, also where the tests run with nohup
    or in the background: what a shell ignores for those, their children would ignore, too. A
    handler does not outlive exec.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts what takes long to the front: the other processes do the rest meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return refuse_skip((yield))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") is None:
        return
    if os.geteuid() != 0:
        pytest.skip("needs root (network namespaces)")
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip (Debian package iproute2)")


@pytest.fixture
def lab_factory() -> Iterator[Callable[..., Lab]]:
    """Makes labs, with Lab's own arguments, that are removed when the test ends."""
    with ExitStack() as labs:

        def make(*args: Any, **kwargs: Any) -> Lab:
            return labs.enter_context(Lab(*args, **kwargs))

        yield make


@pytest.fixture
def program() -> Callable[[str], str]:
    """Gives the path of a system program, or skips the test naming the Debian package."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"needs the program {name} (Debian package {DEBIAN_PACKAGES[name]})")
        return path

    return find
