"""What tests of every kind share: the marker `root`, labs, paths, and programs from the system.

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
from tests.support.daemons import write_configuration
from tests.support.paths import Paths, chosen_by, taken, without

DEBIAN_PACKAGES = {
    "curl": "curl",
    "faketime": "faketime",
    "ip": "iproute2",
    "keepalived": "keepalived",
    "nft": "nftables",
    "prometheus": "prometheus",
    "promtool": "prometheus",
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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--paths", help="only tests that configure daemons, with these paths (or all)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With --paths, runs a test that writes configurations once with each combination that its
    marks leave.
    """
    word = metafunc.config.getoption("paths")
    if word is None or write_configuration not in vars(metafunc.module).values():
        return
    test = metafunc.definition
    own, each = test.get_closest_marker("own_paths"), test.get_closest_marker("each_path")
    if own and not (own.args and own.kwargs.keys() == {"reason"}):
        raise pytest.UsageError(f"{test.nodeid}: own_paths(KEY, ..., reason=...)")
    if each and (each.args or each.kwargs.keys() != {"reason"}):
        raise pytest.UsageError(f"{test.nodeid}: each_path(reason=...)")
    run = without(chosen_by(word, each is not None), own.args if own else ())
    if run and test.get_closest_marker("alone"):
        raise pytest.UsageError(f"{test.nodeid}: runs with --paths beside others, but is `alone`")
    if run:
        metafunc.parametrize("_paths", run, ids=str, indirect=True)


def has_paths(item: pytest.Item) -> bool:
    """Whether the test runs with a combination of paths."""
    callspec = getattr(item, "callspec", None)  # only if it has parameters
    return callspec is not None and "_paths" in callspec.params


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sorts what takes long to the front: the other processes do the rest meanwhile.

    With --paths, leaves out what takes no paths.
    """
    if config.getoption("paths") is not None:
        config.hook.pytest_deselected(items=[item for item in items if not has_paths(item)])
        items[:] = filter(has_paths, items)
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


@pytest.fixture(autouse=True)
def _paths(request: pytest.FixtureRequest) -> Iterator[None]:
    """The combination of paths that configurations of this test have; none without --paths."""
    paths: Paths | None = getattr(request, "param", None)
    with taken(paths):
        yield


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
