"""The base of every exception that carp-fast raises. Must not know any of them."""

from __future__ import annotations


class CarpFastError(Exception):
    """Raised as one of its subclasses: something did not succeed; its text says what and why."""
