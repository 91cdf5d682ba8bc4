"""Configuration files for tests: a table with one virtual host, its variants, what is wrong in it.

In lines of faults FILE stands for the path of the file and DIR for its directory; the line number
behind it is compared with the file and left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from carp_fast.config.load import Configuration, ConfigurationError, Fault, load

HOST = """
[[virtual_host]]
interface = "eth0"
vhid = 7
addresses = "192.0.2.10/24"
passphrase = "k3Jx9QpL2mZt"
"""
TABLE = "FILE: virtual_host[1]: "  # of HOST, where it comes first


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
    for fault in caught.value.faults:
        check_line(fault)
    lines = [str(msgspec.structs.replace(fault, line=None)) for fault in caught.value.faults]
    return [line.replace(str(path), "FILE").replace(str(path.parent), "DIR") for line in lines]


def warning_lines(path: Path, lines: Iterable[str]) -> list[str]:
    """Warnings in the form of fault_lines(), whose line numbers are compared with the file."""
    found = []
    for line in lines:
        place = re.match(rf"{re.escape(str(path))}:(\d+): ([\w\[\]]+): ([\w.]+) = ", line)
        if place is None:
            assert line == f"{path}: no virtual host is configured", line
            found.append(line.replace(str(path), "FILE"))
            continue
        number, table, key = int(place.group(1)), place.group(2), place.group(3)
        check_line(Fault(str(path), table, key, None, "", number))
        found.append(line.replace(f":{number}: ", ": ", 1).replace(str(path), "FILE"))
    return found


def check_line(fault: Fault) -> None:
    """The line of a fault is that of its key, or of its table if the table lacks the key."""
    if fault.line is None:
        unlocated = "cannot be read", "no virtual host", "nested too deeply", "everybody may"
        absent = fault.table is not None and f"[{fault.table}]" not in Path(fault.file).read_text()
        assert absent or any(text in fault.text for text in unlocated), fault
        return
    lines = Path(fault.file).read_text(errors="replace").split("\n")
    line = lines[fault.line - 1]
    if fault.table is None:
        assert "is not TOML" in fault.text, fault
        return
    key = (fault.key or "").strip('"').rpartition(".")[2].partition("\\")[0]
    table = fault.table.partition("[")[0]
    assert (key and key in line) or table in line or table == "top level", (fault, line)
    start = max(n for n in range(fault.line) if n == 0 or lines[n].lstrip().startswith("["))
    end = next(
        (n for n in range(fault.line, len(lines)) if lines[n].lstrip().startswith("[")), None
    )
    if key and any(re.match(rf'\s*"?{re.escape(key)}"?\s*[.=]', each) for each in lines[start:end]):
        assert key in line, (fault, line)


def host(**keys: str) -> str:
    """HOST with keys replaced, added, or taken out (an empty text)."""
    lines = dict(line.split(" = ", 1) for line in HOST.splitlines() if " = " in line)
    lines.update(keys)
    body = "".join(f"{key} = {value}\n" for key, value in lines.items() if value)
    return f"\n[[virtual_host]]\n{body}"
