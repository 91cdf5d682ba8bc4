"""``python -m carp_fast``: the same as the command carp-fast. Holds nothing else."""

from __future__ import annotations

from carp_fast.cli import main

if __name__ == "__main__":
    main()
