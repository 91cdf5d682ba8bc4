"""The base class of every exception that carp-fast raises. Must not know any of them."""

from __future__ import annotations


class CarpFastError(Exception):
    """Raised only as one of its subclasses; the text names what failed and why."""
