"""Configuration files for tests: a table with one virtual host, its variants, what is wrong in it.

In lines of faults FILE stands for the path of the file and DIR for its directory.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from carp_fast.config.load import Configuration, ConfigurationError, load

HOST = """
[[virtual_host]]
interface = "eth0"
vhid = 7
addresses = "192.0.2.10/24"
passphrase = "abc"
"""
TABLE = "FILE: virtual_host[1] (line 2): "  # of HOST, where it comes first


def write(directory: Path, text: str, name: str = "carp.toml", mode: int = 0o600) -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def read(directory: Path, text: str) -> Configuration:
    return load(write(directory, text))


def fault_lines(path: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    lines = [str(fault) for fault in caught.value.faults]
    assert str(caught.value) == "\n".join(lines)
    return [line.replace(str(path), "FILE").replace(str(path.parent), "DIR") for line in lines]


def host(**keys: str) -> str:
    """HOST with keys replaced, added, or taken out (an empty text)."""
    lines = dict(line.split(" = ", 1) for line in HOST.splitlines() if " = " in line)
    lines.update(keys)
    body = "".join(f"{key} = {value}\n" for key, value in lines.items() if value)
    return f"\n[[virtual_host]]\n{body}"
