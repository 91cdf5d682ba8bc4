"""How docs/recipes.md is read: every block of it is used, and every recipe is played by a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.recipes import DOCUMENT, Step, matches, read, titles

TESTS = Path(__file__).parents[1] / "integration"
TEXT = """
## 1. One

On a and b, `/etc/x.toml`:

```toml
advskew = 0
vhid = 1
```

On c, `/etc/x.toml`, as on a but for:

```toml
advskew = 7
```

Then:

```console
a# carp-fast status
a: ... hosts
b# true
```

## 2. Two
"""


def test_every_recipe_is_played_by_a_test() -> None:
    played = "".join(path.read_text() for path in TESTS.glob("test_recipes_*.py"))
    every = titles(DOCUMENT.read_text())
    assert every
    assert [title for title in every if f'"{title}"' not in played] == []
    for title in every:
        scenes = read(DOCUMENT.read_text(), title)
        assert scenes.files
        assert scenes.consoles


def test_files_and_commands_are_those_of_the_section() -> None:
    assert titles(TEXT) == ["One", "Two"]
    found = read(TEXT, "One")
    same = "advskew = 0\nvhid = 1\n"
    assert found.files == {
        "a": {"/etc/x.toml": same},
        "b": {"/etc/x.toml": same},
        "c": {"/etc/x.toml": "advskew = 7\nvhid = 1\n"},
    }
    assert found.consoles == [
        [Step("a", "carp-fast status", ("a: ... hosts",)), Step("b", "true", ())]
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("## 1. One", "## 1. Other", "no recipe 'One'"),
        ("On a and b, `/etc/x.toml`:", "Somewhere:", "no host and file above a block"),
        ("advskew = 7", "advbase = 7", "0 lines with that key"),
        ("vhid = 1\n", "advskew = 1\n", "2 lines with that key"),
        ("a# carp-fast status\n", "", "a console begins with"),
    ],
)
def test_a_block_that_is_not_clear_is_refused(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(ValueError, match=re.escape(message)):
        read(TEXT.replace(old, new), "One")


@pytest.mark.parametrize(
    ("seen", "printed", "same"),
    [
        (["a  b"], "a    b\n", True),
        (["a"], "a b\n", False),
        (["a ..."], "a b c\n", True),
        (["...s"], "12s\n", True),
        (["a"], "a\nb\n", False),
        (["a", "..."], "a\nb\nc\n", True),
        (["...", "b"], "a\nb\n", True),
        (["...", "b"], "a\n", False),
        (["a.c"], "abc\n", False),
        ([], "a\n", False),
        ([], "", True),
    ],
)
def test_what_a_command_prints_is_compared_with_the_document(
    seen: list[str], printed: str, same: bool
) -> None:
    assert matches(seen, printed) is same
