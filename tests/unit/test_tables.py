"""Tables and lines that fit a terminal: what is shortened, what is left out, what stays whole."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.cli import terminal
from carp_fast.cli.tables import (
    GAP,
    Column,
    Stream,
    columns,
    cut,
    cut_list,
    cut_time,
    fit,
    left_out,
    row_text,
    wrapped,
)

NAMES = ("NAME", "STATE", "WHY", "NUMBER")
EVERY = columns(NAMES, ("WHY", "NUMBER"), {"WHY": 4})


def used(widths: list[int]) -> int:
    return sum(widths) + len(GAP) * (sum(map(bool, widths)) - 1)


def test_what_fits_is_not_changed() -> None:
    assert fit(EVERY, [10, 6, 20, 6], 48) == [10, 6, 20, 6]


def test_cells_are_shortened_before_a_column_is_left_out() -> None:
    assert fit(EVERY, [10, 6, 20, 6], 47) == [10, 6, 19, 6]
    assert fit(EVERY, [10, 6, 20, 6], 32) == [10, 6, 4, 6]


def test_the_least_important_column_is_left_out_first_and_the_rest_has_its_room() -> None:
    assert fit(EVERY, [10, 6, 20, 6], 31) == [10, 6, 11, 0]
    assert fit(EVERY, [10, 6, 20, 6], 24) == [10, 6, 4, 0]
    assert fit(EVERY, [10, 6, 20, 6], 23) == [10, 6, 0, 0]
    assert left_out(EVERY, [10, 6, 20, 6], [10, 6, 0, 0]) == ["WHY", "NUMBER"]


def test_the_least_important_cells_are_shortened_first() -> None:
    every = columns("ABC", "BC", {"A": 5, "B": 5, "C": 5})
    assert fit(every, [10, 10, 10], 30) == [10, 10, 6]
    assert fit(every, [10, 10, 10], 24) == [10, 5, 5]
    assert fit(every, [10, 10, 10], 20) == [6, 5, 5]


def test_an_empty_column_takes_no_room_and_is_not_named() -> None:
    assert fit(EVERY, [10, 0, 8, 0], 20) == [10, 0, 8, 0]
    assert row_text(EVERY, [4, 0, 4, 0], ["a", "", "b", ""]) == "a     b"
    assert left_out(EVERY, [10, 0, 8, 0], [10, 0, 8, 0]) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.none() | st.integers(1, 10), st.integers(0, 60)),
        min_size=1,
        max_size=9,
    ),
    st.integers(20, 120),
)
def test_every_table_fits(given_columns: list[tuple[int, int | None, int]], room: int) -> None:
    every = [Column("x", rank, least) for rank, least, _ in given_columns]
    natural = [width for _, _, width in given_columns]
    widths = fit(every, natural, room)
    assert used(widths) <= room
    assert all(width <= had for width, had in zip(widths, natural, strict=True))
    for column, width, had in zip(every, widths, natural, strict=True):
        if column.rank == 0 and had:
            assert width


def test_a_cut_text_has_a_mark() -> None:
    assert cut("master_down", 11, "…") == "master_down"
    assert cut("master_down", 7, "…") == "master…"


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("10.0.0.1/24,10.0.0.2/24", 23, "10.0.0.1/24,10.0.0.2/24"),
        ("10.0.0.1/24,10.0.0.2/24", 22, "10.0.0.1/24 +1"),
        ("10.0.0.1/24,10.0.0.2/24 +7", 25, "10.0.0.1/24 +8"),
        ("10.0.0.1/24,10.0.0.2/24", 10, "10.0.0.1/…"),
        ("2001:db8:1234:5678::1/64", 15, "2001:db8:1234:…"),
    ],
)
def test_a_list_keeps_whole_items_and_counts_the_others(text: str, width: int, shown: str) -> None:
    assert cut_list(text, width, "…") == shown


def test_a_time_loses_its_date_first() -> None:
    assert cut_time("2026-01-01T00:00:00.123456Z", 16, "…") == "00:00:00.123456Z"
    assert cut_time("2026-01-01T00:00:00.123456Z", 27, "…") == "2026-01-01T00:00:00.123456Z"


def test_lines_break_at_spaces_and_keep_their_indent() -> None:
    text = "virtual host eth0/7\n  advertises over IPv4 to the group 224.0.0.18, from 10.0.0.1"
    assert wrapped(text, 40).splitlines() == [
        "virtual host eth0/7",
        "  advertises over IPv4 to the group",
        "    224.0.0.18, from 10.0.0.1",
    ]


def test_a_long_word_stays_whole() -> None:
    path = "/etc/carp-fast/" + "x" * 60 + ".toml"
    assert wrapped(f"{path}: vhid", 40).splitlines() == [f"{path}:", "  vhid"]


def test_a_stream_grows_with_its_cells_and_names_what_was_left_out() -> None:
    every = columns(("time", "from", "verdict"), ("time",), {"verdict": 8})
    stream = Stream(every, 30)
    assert stream.line(["10:00", "a", "ok"]) == "10:00  a  ok"
    assert stream.line(["10:00", "a longer one", "ok"]) == "10:00  a longer one  ok"
    assert stream.line(["10:00", "one that takes more", "ok"]) == "one that takes more  ok"
    assert list(stream.left_out) == ["time"]
    assert stream.line(["10:00", "a", "bad_auth: another key"]).splitlines() == [
        "a                    bad_auth:",
        "  another key",
    ]


def test_a_stream_in_a_pipe_has_everything_on_one_line() -> None:
    every = columns(("time", "from", "verdict"), ("time",), {"verdict": 8})
    stream = Stream(every, None)
    assert stream.line(["10:00", "x" * 100, "y " * 50]) == f"10:00  {'x' * 100}  {'y ' * 50}"
    assert not stream.left_out


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class AsciiTerminal(Terminal):
    encoding = "ascii"


def screen(
    monkeypatch: pytest.MonkeyPatch, made: Terminal | None = None, width: str = "26"
) -> Terminal:
    """A terminal in place of standard output."""
    made = made or Terminal()
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return made


ROWS = [["eth0/7", "MASTER", "it is the fastest", "1"], ["eth0/8", "INIT", "link", "22"]]


def test_a_table_on_a_terminal_has_colours_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = screen(monkeypatch)
    terminal.print_table(EVERY, ROWS, lambda row: "green" if row[1] == "MASTER" else "")
    assert made.getvalue().splitlines() == [
        "\x1b[1mNAME    STATE   WHY\x1b[0m",
        "──────────────────────────",
        "\x1b[32meth0/7  MASTER  it is the…\x1b[0m",
        "eth0/8  INIT    link",
        "not shown on 26 columns:",
        "  NUMBER",
    ]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_may_want_no_colours(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    made = screen(monkeypatch)
    monkeypatch.setenv(name, value)
    terminal.print_table(EVERY, ROWS, lambda row: "green")
    assert "\x1b" not in made.getvalue()


def test_a_terminal_without_unicode_gets_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    made = screen(monkeypatch, AsciiTerminal())
    terminal.print_table(EVERY, ROWS)
    assert made.getvalue().isascii()
    assert "it is the~" in made.getvalue()


@pytest.mark.parametrize("width", ["", "0", "wide"])
def test_a_terminal_without_a_width_has_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    assert terminal.terminal_width(screen(monkeypatch, width=width)) == 80


def test_columns_of_the_environment_are_those_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert terminal.terminal_width(screen(monkeypatch, width="132")) == 132
    assert terminal.terminal_width(io.StringIO()) is None
