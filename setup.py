"""The table of compiled modules; everything else about the package stands in pyproject.toml."""

import glob
import os

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = ["_auth", "_wire", "_wheel", "_vhid", "_core", "_actions", "_orders", "_engine", "_socket", "_netlink", "_turn", "_pump"]
FLAGS = os.environ.get("CARP_FAST_CFLAGS", "-O3 -Wall -Werror=implicit-function-declaration").split()

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"carp_fast.{name}",
                [f"src/carp_fast/{name}.pyx"],
                include_dirs=["src/carp_fast"],
                depends=sorted(glob.glob("src/carp_fast/*.h")),
                extra_compile_args=FLAGS,
                extra_link_args=os.environ.get("CARP_FAST_LDFLAGS", "").split(),
            )
            for name in MODULES
            if os.path.exists(f"src/carp_fast/{name}.pyx")
        ],
        include_path=["src"],
        build_dir="build/cython",
        annotate=bool(os.environ.get("CARP_FAST_ANNOTATE")),
        compiler_directives={
            "language_level": "3",
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
        },
    )
)
