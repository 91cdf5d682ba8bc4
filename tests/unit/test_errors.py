"""The exceptions of the package: one base, and a docstring that says when each is raised."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import carp_fast
from carp_fast.errors import CarpFastError


def exceptions() -> Iterator[type[BaseException]]:
    for found in pkgutil.walk_packages(carp_fast.__path__, "carp_fast."):
        if found.name == "carp_fast.__main__":
            continue
        for value in vars(importlib.import_module(found.name)).values():
            if (
                isinstance(value, type)
                and issubclass(value, BaseException)
                and value.__module__ == found.name
            ):
                yield value


def test_every_exception_is_a_carp_fast_error_and_says_when_it_is_raised() -> None:
    found = list(exceptions())
    assert len(found) > 25
    for each in found:
        assert issubclass(each, CarpFastError), each
        assert (each.__doc__ or "").startswith("Raised "), each
