"""What the README tells a newcomer to type is so: its configuration, its commands, its targets."""

from __future__ import annotations

import re
from pathlib import Path

from carp_fast.cli.main import main
from carp_fast.config.load import load

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_configuration_has_no_fault(tmp_path: Path) -> None:
    [text] = blocks("toml")
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("q7Zt0mYc4HkPx2Ve\n")
    file = tmp_path / "carp-fast.toml"
    file.write_text(text.replace("/etc/carp-fast/secret", str(secret)))
    made = load(file)
    assert len(made.virtual_hosts) == 1 + 4 * 255 + 1
    assert made.virtual_hosts[-2].addresses == ("10.64.3.252/32",)
    # The up script is not on every machine; nothing else is to be warned of.
    assert [warning for warning in made.warnings if "up.sh" not in warning] == []


def test_the_commands_are_there() -> None:
    named = re.findall(r"^carp-fast (\w+)", "".join(blocks("sh")), re.MULTILINE)
    assert {"check", "run", "status"} <= set(named) <= set(main.commands)


def test_the_targets_are_there() -> None:
    named = re.findall(r"^make (\w+)", "".join(blocks("sh")), re.MULTILINE)
    targets = re.findall(r"^(\w+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(named) <= set(targets)
