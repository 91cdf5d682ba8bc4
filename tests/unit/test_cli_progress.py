"""How a command shows its progress, by what standard error is."""

from __future__ import annotations

import io

import pytest

from carp_fast.cli.terminal import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as show:
        show("1 s  [10] frames")
        show("2 s  [20] frames")
    assert capsys.readouterr() == ("", "1 s  [10] frames\n2 s  [20] frames\n")


def test_a_terminal_gets_each_in_place_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with progress() as show:
        show("1 s  [10] frames")
        show("2 s  [20] frames")
        during = shown.getvalue()
    first, second = during.index("1 s  [10] frames"), during.index("2 s  [20] frames")
    assert "\x1b[2K" in during[first:second]
    assert shown.getvalue().endswith("\x1b[2K"), "nothing is left of it"


def test_a_quiet_command_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress(quiet=True) as show:
        show("1 s")
    assert capsys.readouterr() == ("", "")
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    with progress(quiet=True) as show:
        show("1 s")
    assert shown.getvalue() == ""
