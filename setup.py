"""The table of compiled modules; pyproject.toml has everything else about the package.

Read from the environment: CARP_FAST_CFLAGS and CARP_FAST_LDFLAGS (for example of a sanitizer), and
CARP_FAST_ANNOTATE, a directory for Cython's annotated sources.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = (
    "engine._auth",
    "engine._wire",
    "engine._wheel",
    "engine._history",
    "engine._vhid",
    "engine._absence",
    "engine._fields",
    "engine._figures",
    "engine._recorder",
    "engine._core",
    "engine._groups",
    "engine._transitions",
    "engine._sources",
    "engine._demotions",
    "engine._receive",
    "engine._lanes",
    "engine._upkeep",
    "engine._sealing",
    "engine._actions",
    "engine._assume",
    "engine._grace",
    "engine._tallies",
    "engine._orders",
    "engine._reports",
    "engine._prepared",
    "engine._copies",
    "engine._tables",
    "engine._state",
    "engine._checking",
    "engine._placing",
    "engine._arguments",
    "engine._engine",
    "loadtest._histogram",
    "loadtest._tally",
    "loadtest._frames",
    "loadtest._walk",
    "loadtest._pace",
    "loadtest._mix",
    "simulate._network",
    "simulate._lanes",
    "simulate._nics",
    "simulate._sending",
    "simulate._rules",
    "simulate._addresses",
    "simulate._groups",
    "simulate._invariants",
    "simulate._kernel",
    "simulate._upgrade",
    "simulate._turn",
    "simulate._world",
    "pump._socket",
    "pump._netlink",
    "pump._promotion",
    "pump._existing",
    "pump._changes",
    "pump._look",
    "pump._arrivals",
    "pump._turn",
    "pump._drain",
    "pump._ring",
    "pump._refusals",
    "pump._requests",
    "pump._clones",
    "pump._environment",
    "pump._snapshots",
    "pump._freezing",
    "pump._thread",
    "pump._pump",
    "bench._floor",
    "loadtest._sink",
    "loadtest._flood",
)
# Cython's loops compare its C ints with the unsigned bounds that the sources give them.
COMPILE_FLAGS = os.environ.get(
    "CARP_FAST_CFLAGS", "-O3 -Wall -Wno-sign-compare -Werror=implicit-function-declaration"
)
ANNOTATED = os.environ.get("CARP_FAST_ANNOTATE", "")

setup(
    options={"build_ext": {"parallel": os.cpu_count()}},
    ext_modules=cythonize(
        [
            Extension(
                f"carp_fast.{name}",
                [f"src/carp_fast/{name.replace('.', '/')}.pyx"],
                include_dirs=["src/carp_fast"],
                depends=sorted(map(str, Path("src/carp_fast").glob("*.h"))),
                extra_compile_args=COMPILE_FLAGS.split(),
                extra_link_args=os.environ.get("CARP_FAST_LDFLAGS", "").split(),
            )
            for name in MODULES
        ],
        include_path=["src"],
        build_dir=ANNOTATED or "build/cython",
        annotate=bool(ANNOTATED),
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
        },
    ),
)
