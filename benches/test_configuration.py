"""Loading a configuration of 65,280 virtual hosts, against the bare TOML parser on its text."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benches.comparison import SideBySide
from carp_fast.config.load import load

HEAD = """[defaults]
passphrase_file = "secret"
preempt = true
"""
RANGE = """
[[virtual_host]]
interface = "vlan[1-256]"
vhid = "1-255"
addresses = ["{10.64.0.1+index}/32"]
"""
TABLE = """
[[virtual_host]]
interface = "vlan%d"
vhid = %d
addresses = ["10.%d.1.%d/32"]
"""


def text(shape: str, hosts: int) -> str:
    if shape == "range":
        return HEAD + RANGE
    each = [(slot // 255, slot % 255 + 1) for slot in range(hosts)]
    return HEAD + "".join(TABLE % (segment, v, segment, v) for segment, v in each)


@pytest.mark.parametrize(("shape", "hosts"), [("range", 65_280), ("tables", 4_080)])
def test_load_beside_tomllib(
    benchmark: BenchmarkFixture, side_by_side: SideBySide, tmp_path: Path, shape: str, hosts: int
) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("benchmark\n")
    path = tmp_path / "carp-fast.toml"
    path.touch(mode=0o600)
    path.write_text(text(shape, hosts))
    assert len(load(path).virtual_hosts) == hosts
    benchmark.extra_info.update(hosts=hosts, shape=shape)
    benchmark.pedantic(load, (path,), rounds=5)
    tables = path.read_text() if shape == "tables" else text("tables", hosts)
    side_by_side(None, "tomllib, a table each", lambda: tomllib.loads(tables), hosts)
