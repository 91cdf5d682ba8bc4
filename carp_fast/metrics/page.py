"""The page: one file, without anything from elsewhere, and the headers that hold a browser to that.

Must not know what the page shows.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from carp_fast.metrics.exchange import Answer

TYPE = ("Content-Type", "text/html; charset=utf-8")
# No other origin may embed it or its data, learn its address, or keep a window on it.
HEADERS = [
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]


def policy_of(html: str) -> str:
    """The content security policy under which the inline script and style of a page run, no others.

    A page may connect to where it came from and to nothing else; it has no form, frame or base.
    """
    sources = {
        "script-src": _hashes(html, "script"),
        "style-src": _hashes(html, "style"),
        "img-src": "data:",
        "connect-src": "'self'",
        **dict.fromkeys(("base-uri", "form-action", "frame-ancestors"), "'none'"),
    }
    return "; ".join(["default-src 'none'", *(f"{key} {value}" for key, value in sources.items())])


def _hashes(html: str, tag: str) -> str:
    """The sources of a policy that allow these elements of a page, by their contents."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = [hashlib.sha256(text.encode()).digest() for text in found]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


class PageFile:
    """The page as it is packaged. Raises OSError if it cannot be read."""

    def __init__(self) -> None:
        self._html = files("carp_fast.metrics").joinpath("page.html").read_text("utf-8")
        self._headers = [TYPE, ("Content-Security-Policy", policy_of(self._html)), *HEADERS]

    def answer(self) -> Answer:
        """The page itself."""
        return Answer(200, list(self._headers), self._html.encode())
