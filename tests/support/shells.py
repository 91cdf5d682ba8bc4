"""What a script starts: as `carp-fast import` reads it, and as a shell runs it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from carp_fast.ucarp.shell_commands import Lost, Remark, Started
from carp_fast.ucarp.shell_scripts import started


class Read(NamedTuple):
    """Arguments of the ucarps that a script is said to start; why others are not known."""

    arguments: list[list[str]]
    lost: list[str]
    remarks: list[str]


def read(text: str, path: Path = Path("/work/script")) -> Read:
    found = list(started(text.encode(errors="surrogateescape"), path))
    return Read(
        [each.arguments for each in found if isinstance(each, Started)],
        [f"{each.line}: {each.why}" for each in found if isinstance(each, Lost)],
        [f"{each.line}: {each.text}" for each in found if isinstance(each, Remark)],
    )


class Shells:
    """Runs scripts with a ucarp that only writes its arguments down."""

    def __init__(self, directory: Path) -> None:
        self._records = directory / "records"
        self._records.mkdir()
        self._place = directory / "place"
        self._place.mkdir()
        programs = directory / "programs"
        programs.mkdir()
        ucarp = programs / "ucarp"
        ucarp.write_text('#!/bin/sh\nprintf "%s\\0" "$@" >"$RECORDS/$$"\n')
        ucarp.chmod(0o755)
        self._environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "RECORDS": str(self._records),
            "LC_ALL": "C.UTF-8",
        }

    def arguments(self, text: str, shell: str = "bash") -> list[list[str]]:
        """What each ucarp was given that the script has started as its `start`, sorted."""
        script = self._place / "script"
        script.write_bytes(text.encode(errors="surrogateescape") + b"\nwait\n")
        subprocess.run(
            [shell, script, "start"],
            env=self._environment,
            cwd=self._place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
        found = []
        for record in self._records.iterdir():
            words = record.read_bytes().removesuffix(b"\0").split(b"\0")
            found.append([word.decode(errors="surrogateescape") for word in words])
            record.unlink()
        return sorted(found)
