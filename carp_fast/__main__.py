"""The command carp-fast, also as ``python -m carp_fast`` and under names that end in ucarp.

Selects which command runs: what runs as ucarp must not pay for importing the other commands.
"""

from __future__ import annotations

import signal
import sys

from carp_fast.signals import remember
from carp_fast.standard import open_missing

UCARP = "ucarp"
RUN = "run"


def main() -> None:
    """Runs the command named by the program's name or its first argument; exits with its code."""
    open_missing()
    words = sys.argv
    by_name = words[0].rpartition("/")[2].endswith(UCARP)
    if by_name or words[1:2] == [UCARP]:
        remember(signal.SIGUSR1, signal.SIGUSR2)
        from carp_fast.ucarp.main import main as ucarp

        count = 1 if by_name else 2
        sys.exit(ucarp(words[:count], words[count:]))
    if words[1:2] == [RUN]:
        remember(signal.SIGHUP, signal.SIGUSR1)
    from carp_fast.cli.main import main as commands

    commands(prog_name="carp-fast")


if __name__ == "__main__":
    main()
