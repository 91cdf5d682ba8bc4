"""What docs/monitoring.md says of metrics, held to what is exported."""

from __future__ import annotations

import re
from pathlib import Path

from carp_fast.metrics import connection, listener, streams
from carp_fast.metrics.families import FAMILIES, PREFIX

TEXT = (Path(__file__).parent.parent.parent / "docs" / "monitoring.md").read_text()
ROW = re.compile(r"^\| `(carp_fast_\w+)` \| (\w+) \| ([^|]*) \| ([^|]+) \|$", re.MULTILINE)


def test_every_metric_is_listed_with_its_type_labels_and_meaning() -> None:
    listed = {
        name: (kind, tuple(re.findall(r"\w+", labels)), meaning + ".")
        for name, kind, labels, meaning in ROW.findall(TEXT)
    }
    assert listed == {
        family.exported: (family.kind, family.labels, family.help) for family in FAMILIES
    }


def test_no_other_metric_is_named() -> None:
    known = {family.exported for family in FAMILIES}
    assert set(re.findall(rf"{PREFIX}\w+", TEXT)) <= known


def test_the_limits_are_those_of_the_listener() -> None:
    limits = re.findall(r"(\d[\d,]*)[^|(]*\(`([A-Z_]+)`\)", TEXT)
    assert len(limits) == 9
    for name, figure in limits:
        (value,) = {
            getattr(module, figure)
            for module in (connection, listener, streams)
            if hasattr(module, figure)
        }
        shown = int(name.replace(",", ""))
        assert value == (shown * 1024 if figure == "REQUEST_BYTES_MAX" else shown), figure
