"""What several unit tests start from."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.programs import Gate
from tests.support.staged import Stage


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Stage:
    """A network that only writes down what it is told; its log from INFO on is captured."""
    caplog.set_level(logging.INFO, "carp_fast.daemon")
    return Stage(monkeypatch)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A pipe that holds up whatever reads it."""
    return Gate(tmp_path / "gate")
