"""Every case: importing this module registers them, in this order."""

from __future__ import annotations

from tests.chaos import addresses, comparisons, links, monkey, pressure, service, strangers

MODULES = (comparisons, links, addresses, service, pressure, strangers, monkey)
