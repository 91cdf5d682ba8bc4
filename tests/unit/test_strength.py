"""Passphrases that a laptop guesses in an hour: the estimate, and a configuration's warning."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.config import load as load_module
from carp_fast.config import secrets
from carp_fast.config.load import load, load_settled
from carp_fast.config.strength import GUESSES_PER_S, WEAK_S, guesses, in_words, seconds
from tests.support.configurations import host, write

HINT = "(100,000,000 guesses a second)"


@pytest.mark.parametrize(
    ("passphrase", "expected"),
    [
        ("x", 26),
        ("zkqjwv", 26**6),
        ("zkqJwv", 52**6),
        ("zk4jwv", 36**6),
        ("zk-jwv", 59**6),
        ("84736284756", 10**11),
        ("password", 10_000),
        ("Password", 300_000),
        ("P4$$w0rd", 300_000),
        ("secret-carp", 10_000 * 59 * 10_000),
        ("summer2024", 10_000 * 200),
        ("summer77", 10_000 * 100),
        ("abcdefghij", 1_000),
        ("jihgfedcba", 1_000),
        ("qwertyuiop", 1_000),
        ("xxxxxxxx", 26 * 8),
        ("xy7xy7xy7", 36**3 * 9),
    ],
)
def test_the_likeliest_way_to_guess_counts(passphrase: str, expected: int) -> None:
    assert guesses(passphrase.encode()) == expected


@pytest.mark.parametrize(
    "weak",
    ["secret", "Winter2024!", "carp-secret", "zkqjwvxp", "12345678901234", "aB3$x", "a1a1a1a1a1"],
)
def test_what_a_laptop_guesses_in_an_hour_is_weak(weak: str) -> None:
    assert seconds(weak.encode()) < WEAK_S


@given(st.integers(0, 1 << 32))
def test_random_passphrases_are_not_called_weak(seed: int) -> None:
    letters = string.ascii_letters + string.digits
    made = "".join(random.Random(seed).choices(letters, k=12))
    assert seconds(made.encode()) > WEAK_S


@given(st.binary(min_size=1, max_size=19))
def test_any_bytes_have_an_estimate_that_trying_all_does_not_exceed(passphrase: bytes) -> None:
    assert 1 <= guesses(passphrase) <= 256 ** len(passphrase)
    assert guesses(memoryview(passphrase)) == guesses(passphrase)


def test_durations_in_words() -> None:
    assert in_words(0.2) == "less than a second"
    assert in_words(40.4) == "about 40 s"
    assert in_words(2088) == "about 35 minutes"
    assert seconds(b"zkqjwvxp") == 26**8 / GUESSES_PER_S


def guessable(lines: tuple[str, ...]) -> list[str]:
    return [line for line in lines if "guesses it" in line]


def test_a_configuration_warns_of_each_weak_passphrase_once(tmp_path: Path) -> None:
    (tmp_path / "word").touch(mode=0o600)
    (tmp_path / "word").write_text("zkqjwvxp\n")
    tables = [
        host(passphrase='"secret"'),
        host(vhid="8", passphrase='"secret"'),
        host(vhid="9", passphrase="", passphrase_file='"word"'),
        host(vhid="10", passphrase='"k3Jx9QpL2mZt"'),
    ]
    path = write(tmp_path, "".join(tables))
    safer = "; safer: 12 random letters and digits"
    expected = [
        f"{path}:6: virtual_host[1]: passphrase = (hidden): a laptop that heard one"
        f" advertisement guesses it in less than a second {HINT}"
        f", as that of 1 more of the tables{safer}",
        f'{path}:18: virtual_host[3]: passphrase_file = "word": a laptop that heard one'
        f" advertisement guesses it in about 35 minutes {HINT}{safer}",
    ]
    assert guessable(load(path).warnings) == expected
    assert guessable(load_settled(path).warnings) == expected  # whose passphrases have no text
    assert "secret" not in "".join(load(path).warnings)


def test_passphrases_beyond_a_number_are_counted_not_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (secrets, load_module):
        monkeypatch.setattr(module, "ESTIMATED_MAX", 2)
    tables = [host(vhid=str(n), passphrase=f'"weak{n}"') for n in range(1, 6)]
    warnings = load(write(tmp_path, "".join(tables))).warnings
    assert len(guessable(warnings)) == 2
    [more] = [line for line in warnings if "ESTIMATED_MAX" in line]
    assert "3 tables have passphrases after the first 2 (ESTIMATED_MAX)" in more
