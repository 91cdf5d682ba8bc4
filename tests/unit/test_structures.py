"""Structures of netlink messages without the whole package that defines them."""

from __future__ import annotations

import subprocess
import sys

import pytest

USE = """
import sys
from carp_fast.net.structures import structure
message = structure("ifaddrmsg")()
message["prefixlen"] = 24
message["attrs"] = [("IFA_LOCAL", "10.77.0.1")]
message.encode()
decoded = structure("ifaddrmsg")(bytes(message.data))
decoded.decode()
assert (decoded["prefixlen"], decoded.get_attr("IFA_LOCAL")) == (24, "10.77.0.1")
assert structure("ifinfmsg")()
"""
ALONE = """
assert "pyroute2.iproute" not in sys.modules and "sqlite3" not in sys.modules
"""
WHOLE = """
import pyroute2
assert pyroute2.IPRoute and "pyroute2.iproute" in sys.modules
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
assert ifaddrmsg().encode is not None
"""
BEFORE = """
import pyroute2
"""
NEEDS_MORE = """
import importlib, importlib.util, sys
plain = importlib.import_module
def needing(name, package=None):
    if getattr(sys.modules.get("pyroute2"), "IPRoute", None) is None and not needing.tried:
        needing.tried = True
        raise ImportError("cannot import name 'IPRoute' from 'pyroute2'")
    return plain(name, package)
needing.tried = False
importlib.import_module = needing
"""


@pytest.mark.parametrize(
    "program",
    [USE + ALONE, USE + WHOLE, BEFORE + USE + WHOLE, NEEDS_MORE + USE + WHOLE],
    ids=["alone", "whole afterwards", "whole before", "a version that needs the package"],
)
def test_messages_are_made_and_read_whatever_else_uses_the_library(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
