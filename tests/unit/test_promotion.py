"""promote_secondaries of an interface, set over netlink."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab
from carp_fast.net import promotion
from carp_fast.net.promotion import promote_secondaries

SCRIPT = """
import logging, sys
from socket import if_nametoindex
from carp_fast.net.promotion import promote_secondaries
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
promote_secondaries("s1", if_nametoindex("s1"))
"""
RUN = [sys.executable, "-c", SCRIPT]


def setting(name: str) -> str:
    return f"/proc/sys/net/ipv4/conf/{name}/promote_secondaries"


@pytest.mark.root
def test_it_is_set_where_proc_is_read_only_and_only_there_and_once(
    lab_factory: Callable[..., Lab],
) -> None:
    host, _ = lab_factory(segments=2).hosts
    for name in ("all", "default", "s1", "s2"):
        host.run(["sh", "-c", f"echo 0 > {setting(name)}"])
    read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys"
    words = ["unshare", "--mount", "sh", "-c", f'{read_only} && exec "$@"', "sh"]
    refused = host.run([*words, "sh", "-c", f"echo 1 > {setting('s1')}"], check=False)
    assert refused.returncode != 0
    done = host.run([*words, *RUN])
    assert done.stdout == "s1: promote_secondaries set to 1\n"
    values = [host.run(["cat", setting(name)]).stdout for name in ("all", "s1", "s2")]
    assert values == ["0\n", "1\n", "0\n"]
    assert host.run(RUN).stdout == ""


@pytest.mark.root
def test_without_the_right_to_it_one_line_says_so(lab_factory: Callable[..., Lab]) -> None:
    host, _ = lab_factory(segments=1).hosts
    host.run(["sh", "-c", f"echo 0 > {setting('s1')}"])
    done = host.run(["setpriv", "--bounding-set=-net_admin", *RUN])
    text = "s1: could not set promote_secondaries: Operation not permitted; it is tried again"
    assert done.stdout == f"{text} before an address is removed\n"


def test_an_interface_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(promotion, "SETTINGS", tmp_path)
    promote_secondaries("gone", 0x7FFFFFFF)
    text = "gone: could not set promote_secondaries: No such file or directory; it is tried again"
    assert caplog.messages == [f"{text} before an address is removed"]
