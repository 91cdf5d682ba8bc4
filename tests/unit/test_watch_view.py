"""The view of `watch`: rows, keys, and the lines that a terminal of any size gets."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import msgspec
import pytest

from carp_fast.cli import watch
from carp_fast.cli.fullscreen import Keys
from carp_fast.cli.tables import ASCII
from carp_fast.cli.watch_lines import CHANGES_AT_ONCE, Lines
from carp_fast.cli.watch_screen import TITLES, screen, shared
from carp_fast.cli.watch_view import CHANGES_KEPT, KEYS, SORTS, Explain, View, natural
from carp_fast.control.overview import Overview
from tests.support.overviews import change, interface, overview, problem

SECOND_MASTER = "second_master: 192.0.2.3 (02:00:00:00:00:03) is MASTER, too, heard 0.4 s ago"
SIZES = [(80, 24), (200, 50), (20, 6), (21, 7), (40, 10), (60, 80), (500, 12)]


def busy() -> Overview:
    """Three interfaces, three problems, thirty changes."""
    return overview(
        [
            interface("eth10", 200, 55),
            interface("eth2", 252, 0, 3),
            interface("eth1", 0, 255, link="down"),
        ],
        [
            problem("eth10/7", SECOND_MASTER, "MASTER"),
            problem("eth2/1", "INIT (link_down)"),
            problem("eth2/2", "INIT (link_down)"),
        ],
        [change(f"eth10/{second + 1}", second) for second in range(30)],
        notices=["this host is in maintenance since 2027-01-15T11:00:00.000Z (disks)"],
    )


def view_of(found: Overview, *keys: str, size: tuple[int, int] = (80, 24)) -> View:
    view = View()
    view.width, view.height = size
    view.take(found)
    for key in keys:
        view.press(key)
    return view


def shown(view: View) -> list[str]:
    return ["".join(text for text, _ in line).rstrip() for line in screen(view)]


def styled(view: View, style: str) -> list[str]:
    return [text for text, found in chain.from_iterable(screen(view)) if found == style]


# --- the screen -----------------------------------------------------------------------------------


def test_a_screen_of_80x24_has_totals_problems_interfaces_and_the_last_changes() -> None:
    assert shown(view_of(busy())) == [
        "alpha  12:00:31 UTC  carp-fast 0.1.0, pid 4711, running for 3h 0m",
        "765 virtual hosts: 452 MASTER, 310 BACKUP, 3 INIT",
        "this host is in maintenance since 2027-01-15T11:00:00.000Z (disks)",
        "── problems: 3 (1 second_master, 2 INIT) " + "─" * 39,
        "eth10/7  MASTER  2m 31s  second_master: 192.0.2.3 (02:00:00:00:00:03) is MASTER…",
        "eth2/1   INIT    2m 31s  INIT (link_down)",
        "eth2/2   INIT    2m 31s  INIT (link_down)",
        "── interfaces: 3, by problems " + "─" * 50,
        "INTERFACE  LINK  HOSTS  MASTER  BACKUP  INIT  PROBLEMS  CHANGED",
        "eth2       up      255     252       0     3         3",
        "eth1       down    255       0     255     0         0",
        "eth10      up      255     200      55     0         0  1s ago",
        "── last changes: 30 " + "─" * 60,
        *(
            f"12:00:{second}.123Z  eth10/{second + 1}  BACKUP -> MASTER  master_down  192.0.2.2"
            for second in range(29, 19, -1)
        ),
        "q quit  ? help  tab pane  up/down select  enter explain  / filter  s sort",
    ]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("keys", ["", "?", "/e", "tab end", "e x enter"])
def test_every_size_gets_as_many_lines_that_fit(size: tuple[int, int], keys: str) -> None:
    every = [interface(f"a-long-name-{number}.100", 255) for number in range(256)]
    found = overview(every, [problem("eth0/1", SECOND_MASTER * 3)] * 100, busy().last)
    view = view_of(found, *(keys.split() if " " in keys else keys), size=size)
    view.lost = "no carp-fast daemon at /run/carp-fast/control.sock: is it running?"
    lines = screen(view)
    assert len(lines) == size[1]
    assert max(sum(len(text) for text, _ in line) for line in lines) <= size[0]


def test_names_of_virtual_hosts_are_shown_and_can_be_filtered_by() -> None:
    named = msgspec.structs.replace(problem("eth0/7", "INIT (link_down)"), name="web")
    found = overview([interface("eth0", 255)], [named], [change("eth0/8", 1, name="mail")])
    view = view_of(found)
    assert shown(view)[3].startswith("eth0/7 (web)  INIT  ")
    assert "  eth0/8 (mail)  BACKUP -> MASTER  " in "".join(shown(view))
    view.filter = "mail"
    assert [len(view.rows(pane)) for pane in TITLES] == [0, 0, 1]
    assert view.rows("changes")[0].host == Explain("eth0", 8)
    line = list(Lines("web").of(found))
    assert line == [f"{found.at} problem of eth0/7 (web): INIT (link_down)"]


def test_panes_without_rows_leave_their_room_to_others() -> None:
    lines = shown(view_of(overview([interface("eth0", 255)]), "tab"))
    assert lines[2].startswith("── problems: 0 ─")
    assert lines[3].startswith("── interfaces: 1, by problems ─")
    assert lines[6].startswith("── last changes: 0 ─")
    assert lines[7] == "  no state has changed yet"


def test_room_is_shared_and_what_one_does_not_need_goes_to_the_others() -> None:
    assert shared({"problems": 2, "interfaces": 90, "changes": 90}, 20) == {
        "problems": 2,
        "interfaces": 9,
        "changes": 9,
    }
    assert sum(shared({"problems": 90, "interfaces": 90, "changes": 90}, 20).values()) == 20


def test_a_low_terminal_shows_the_pane_that_is_chosen() -> None:
    for pane, title in TITLES.items():
        view = view_of(busy(), size=(80, 8))
        view.pane = pane
        titles = [line for line in shown(view) if line.startswith("──")]
        assert len(titles) == 1
        assert title in titles[0]


def test_control_characters_of_texts_do_not_reach_the_terminal() -> None:
    found = overview(
        [interface("eth\x1b[2J", 1)], [problem("eth0/1", "INIT (\x07)")], notices=["\x1b"]
    )
    text = "".join(shown(view_of(found)))
    assert text.isprintable()
    assert "eth?[2J" in text


def test_marks_are_ascii_where_the_terminal_has_no_others() -> None:
    lines = screen(view_of(busy()), ASCII)
    assert "".join(text for text, _ in chain.from_iterable(lines)).isascii()


def test_a_daemon_that_is_lost_is_named_above_what_was_known_last() -> None:
    view = view_of(busy())
    view.lost = "no carp-fast daemon at /x: is it running?"
    (line,) = styled(view, "bad")[:1]
    assert line.startswith("no carp-fast daemon at /x: is it running?; tried again every second")
    assert "765 virtual hosts" in "".join(shown(view))
    view.take(busy())
    assert "is it running" not in "".join(shown(view))


def test_a_view_without_an_overview_tells_what_it_waits_for() -> None:
    view = View()
    assert shown(view)[1] == "waiting for the daemon"


# --- keys -----------------------------------------------------------------------------------------


def test_keys_select_and_enter_explains() -> None:
    view = view_of(busy(), "backtab")
    assert view.pane == "problems"
    assert view.press("enter") is None
    assert view.note == "select a row with up and down first"
    view.press("down")
    view.press("down")
    assert styled(view, "selected")[0].startswith("eth2/1")
    assert view.press("enter") == Explain("eth2", 1)
    assert "  asking the daemon" in shown(view)
    view.explained(Explain("eth9", 1), "of another one")
    assert "  asking the daemon" in shown(view)
    view.explained(Explain("eth2", 1), "virtual host eth2/1\n  it is so")
    lines = shown(view)
    assert lines[0].startswith("── eth2/1 ─")
    assert lines[1:3] == ["virtual host eth2/1", "  it is so"]
    view.lost = "the daemon does not answer within 10 s"
    assert shown(view)[0].startswith("── eth2/1 (the daemon does not answer within 10 s) ─")
    view.press("escape")
    assert styled(view, "selected")[0].startswith("eth2/1")
    for _ in range(3):
        view.press("up")
    assert styled(view, "selected") == []


def test_the_selection_stays_with_its_row_when_others_come() -> None:
    view = view_of(busy(), "tab", "down", "down")
    assert view.pane == "changes"
    (before,) = styled(view, "selected")
    view.take(overview(busy().interfaces, last=[change("eth1/9", 31)], changes=31))
    assert styled(view, "selected") == [before]
    lines = shown(view)
    title = next(number for number, line in enumerate(lines) if line.startswith("── last"))
    assert "eth1/9" in lines[title + 1]
    view.press("end")
    assert "eth10/1 " in styled(view, "selected")[0]
    view.press("home")
    assert "eth1/9" in styled(view, "selected")[0]


def test_pages_of_a_pane_and_of_a_text_end_at_their_ends() -> None:
    view = view_of(busy(), "tab", *["pagedown"] * 5)
    assert "eth10/1 " in styled(view, "selected")[0]
    view.press("pageup")
    assert "eth10/11 " in styled(view, "selected")[0]
    view.press("enter")
    lines = [f"line {number} " + "x" * 90 for number in range(40)]
    view.explained(Explain("eth10", 11), "\n".join(lines))
    top = {}
    for key in ("end", "pageup", "home", "down", "up", "up"):
        view.press(key)
        top[key] = shown(view)[1]
    assert shown(view)[1].startswith("line 0")
    assert top["end"].startswith("line 29"), "two lines each, 22 of them have room"
    assert top["pageup"].startswith("line 24")
    assert top["down"].startswith("  xxx")


def test_virtual_hosts_of_one_name_are_rows_of_their_own() -> None:
    found = overview(problems=[problem("eth0/7", f"INIT ({word})") for word in ("a", "b", "c")])
    view = view_of(found, "backtab", "down", "down", "down")
    assert "INIT (c)" in styled(view, "selected")[0]


def test_a_filter_hides_what_lacks_one_of_its_words_in_every_pane() -> None:
    view = view_of(busy(), *"/ETH2 link")
    assert shown(view)[-1] == "filter: ETH2 link_"
    lines = shown(view)
    assert lines[3].startswith("── problems: 2 of 3 ")
    assert lines[6].startswith("── interfaces: 0 of 3, ")
    assert lines[7] == "  nothing that the filter lets through"
    assert lines[8].startswith("── last changes: 0 of 30 ")
    view.press("backspace")
    view.press("enter")
    assert shown(view)[-1].startswith("filter: ETH2 lin (esc clears)  q quit")
    view.press("escape")
    assert shown(view)[3].startswith("── problems: 3 (")
    view.press("/")
    view.press("x")
    view.press("escape")
    assert (view.filter, view.typed) == ("", None)


def test_enter_on_an_interface_shows_what_concerns_it() -> None:
    view = view_of(busy(), "down", "enter")
    assert view.filter == "eth2"
    assert shown(view)[3].startswith("── problems: 2 of 3")


def test_s_sorts_interfaces_by_the_next_key() -> None:
    assert SORTS == watch.SORTS
    view = view_of(busy())
    found = {}
    for sort in SORTS:
        assert view.sort == sort
        found[sort] = [row.cells[0] for row in view.rows("interfaces")]
        view.press("s")
    assert view.sort == "problems"
    assert found == {
        "problems": ["eth2", "eth1", "eth10"],
        "name": ["eth1", "eth2", "eth10"],
        "master": ["eth2", "eth10", "eth1"],
        "backup": ["eth1", "eth10", "eth2"],
        "init": ["eth2", "eth1", "eth10"],
        "changed": ["eth10", "eth1", "eth2"],
    }
    view.press("S")
    assert view.sort == "changed"
    later = overview([interface("eth2", 255), interface("eth1", 0, 255)], changes=30)
    view.take(later)  # with other totals of eth2
    assert [row.cells[0] for row in view.rows("interfaces")] == ["eth2", "eth1"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("eth0/7", Explain("eth0", 7)),
        (" vlan100.bond0 255 ", Explain("vlan100.bond0", 255)),
        ("eth0", None),
        ("eth0/256", None),
        ("eth0/0", None),
        ("", None),
    ],
)
def test_a_virtual_host_to_explain_can_be_typed(typed: str, expected: Explain | None) -> None:
    view = view_of(busy(), "e", *typed)
    assert view.press("enter") == expected
    if expected is None:
        assert view.page is None
        assert view.note.endswith("must be an interface and a vhid, as eth0/7")


def test_q_quits_but_for_where_text_is_typed() -> None:
    view = view_of(busy())
    assert view.press("q") == "quit"
    view.press("?")
    assert view.press("q") == "quit"
    view.press("escape")
    view.press("/")
    assert view.press("q") is None
    assert view.filter == "q"


def test_the_documentation_lists_the_keys() -> None:
    text = (Path(__file__).parent.parent.parent / "docs" / "operating.md").read_text()
    for keys, _ in KEYS:
        assert f"\n| {keys} | " in text
    assert f"by the next key: {', '.join(f'`{sort}`' for sort in SORTS)} |" in text


def test_natural_order_of_names() -> None:
    names = ["eth10", "eth2", "br0", "eth2.100", "eth2.20"]
    assert sorted(names, key=natural) == ["br0", "eth2", "eth2.20", "eth2.100", "eth10"]


# --- what a daemon tells --------------------------------------------------------------------------


def test_changes_that_came_too_fast_are_counted_and_old_ones_are_forgotten() -> None:
    view = view_of(overview(changes=65_280, last=[change("eth0/1", 1)]))
    assert view.unseen == 0, "before it began to watch"
    every = [change("eth0/2", 2) for _ in range(256)]
    for number in range(1, 5):
        view.take(overview(changes=65_280 + 1_000 * number, last=every))
    assert view.unseen == 4 * 744
    assert view.total("changes") == CHANGES_KEPT
    assert "2,976 more came too fast to be shown" in "".join(shown(view))


def test_another_process_counts_from_its_own_start() -> None:
    view = view_of(overview(changes=900, last=[change("eth0/1", 1)]))
    view.take(overview(pid=4712, changes=2, last=[change("eth0/1", 2), change("eth0/2", 2)]))
    assert view.unseen == 0
    assert view.total("changes") == 3


# --- keys of a terminal ---------------------------------------------------------------------------


def test_bytes_become_the_names_of_keys() -> None:
    keys = Keys()
    assert keys.feed(b"q\x1b[A\x1bOB\x1b[5~\t\r\x7f/\xc3\xa9") == [
        *("q", "up", "down", "pageup", "tab", "enter", "backspace", "/", "é")
    ]
    assert keys.feed(b"\x1b[1;5C\x00\x1b[99~") == []


def test_an_escape_alone_is_a_key_and_the_beginning_of_a_sequence_is_not() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b") == []
    assert keys.begun
    assert keys.flush() == ["escape"]
    assert keys.feed(b"x\x1b[") == ["x"]
    assert keys.feed(b"B") == ["down"]
    assert not keys.begun
    assert keys.feed(b"\x1b[") == []
    assert keys.flush() == []


# --- lines of a pipe ------------------------------------------------------------------------------


def test_a_pipe_gets_totals_problems_and_each_change() -> None:
    lines = Lines()
    first = overview(
        [interface("eth0", 1, 1), interface("eth1", 0, 1, link="down")],
        [problem("eth0/7", SECOND_MASTER, "MASTER")],
        [change("eth0/9", 1)],
        notices=["demoted by 20: disks"],
    )
    at = first.at
    assert list(lines.of(first)) == [
        f"{at} alpha: 3 virtual hosts: 1 MASTER, 2 BACKUP, 0 INIT; problems: 1 second_master",
        f"{at} eth0: 2 virtual hosts: 1 MASTER, 1 BACKUP, 0 INIT",
        f"{at} eth1: 1 virtual hosts: 0 MASTER, 1 BACKUP, 0 INIT, link down",
        f"{at} alpha: demoted by 20: disks",
        f"{at} problem of eth0/7: {SECOND_MASTER}",
    ]
    same = overview(
        first.interfaces, [problem("eth0/7", SECOND_MASTER.replace("0.4", "0.9"))],
        notices=first.notices, changes=1,
    )  # fmt: skip
    assert list(lines.of(same)) == []
    later = overview(
        [interface("eth0", 2), first.interfaces[1]], last=[change("eth0/8", 5)], changes=2
    )
    assert list(lines.of(later)) == [
        "2027-01-15T12:00:05.123Z eth0/8: BACKUP -> MASTER (master_down)",
        f"{at} alpha: 3 virtual hosts: 2 MASTER, 1 BACKUP, 0 INIT",
        f"{at} eth0: 2 virtual hosts: 2 MASTER, 0 BACKUP, 0 INIT",
    ]


def test_a_pipe_gets_some_of_many_changes_and_the_number_of_the_others() -> None:
    lines = Lines("more")
    assert list(lines.of(overview(changes=5))) == []
    many = overview(last=[change("eth0/1", 1)] * 256, changes=1_005)
    (line,) = lines.of(many)
    count = 1_000 - CHANGES_AT_ONCE
    assert line == f"{many.at} alpha: {count} more changes of states before the next line"


def test_a_pipe_is_told_of_another_process() -> None:
    lines = Lines()
    list(lines.of(overview(changes=5)))
    again = list(lines.of(overview(pid=4712, changes=1, last=[change("eth0/1", 1)])))
    assert again == [
        f"{overview().at} alpha: another process answers, pid 4712",
        "2027-01-15T12:00:01.123Z eth0/1: BACKUP -> MASTER (master_down)",
    ]
