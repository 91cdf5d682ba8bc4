"""The structures of netlink messages, from pyroute2, without the rest of it.

Importing the package runs its `__init__`, which loads 160 modules (sockets, a database, a pool of
processes): 19 MiB in a daemon that only encodes and decodes two kinds of messages, and 14 less
without them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from typing import Any

PACKAGE = "pyroute2"

_importing = threading.Lock()


def structure(name: str) -> Any:
    """The class `name` of the module of that name in pyroute2.netlink.rtnl. Raises ImportError."""
    path = f"{PACKAGE}.netlink.rtnl.{name}"
    module = sys.modules.get(path)
    if module is None:
        with _importing:
            module = _without_package(path) or importlib.import_module(path)
    return getattr(module, name)


def _without_package(path: str) -> Any:
    """The module, imported while an empty package stands for pyroute2; None: it needs more."""
    spec = importlib.util.find_spec(PACKAGE)
    if PACKAGE in sys.modules or spec is None:
        return None
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(path)
    except (ImportError, AttributeError):
        for loaded in [each for each in sys.modules if each.startswith(f"{PACKAGE}.")]:
            del sys.modules[loaded]
        return None
    finally:
        del sys.modules[PACKAGE]  # whoever imports it gets the whole of it
