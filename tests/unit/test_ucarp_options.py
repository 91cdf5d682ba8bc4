"""The command line of ucarp: spellings, numbers, refusals, and what is hidden from ps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.daemon import plan
from carp_fast.daemon.table import Hosts
from carp_fast.ucarp import main as ucarp
from carp_fast.ucarp.manner import configuration_of
from carp_fast.ucarp.options import (
    FACILITIES,
    OPTIONS,
    Options,
    SettingsError,
    UsageError,
    check,
    number,
    parse,
    split,
    summary,
    without_password,
)

ROOT = Path(__file__).parents[2]
COMPLETE = "-i eth0 -s 10.0.0.1 -v 1 -p secret -a 10.0.0.9"
DEADLINE_S = 60.0


def read(line: str) -> Options:
    options = Options()
    parse(line.split(), options)
    return options


def test_every_option_of_ucarp_in_both_spellings() -> None:
    short = "i:s:m:v:p:o:Pna:hb:k:u:d:r:DzBSMf:x:"
    letters = {letter: bool(value) for _, letter, value, _ in OPTIONS}
    assert letters == {c: short[i + 1 : i + 2] == ":" for i, c in enumerate(short) if c != ":"}
    long = "interface srcip mcastip vhid pass passfile preempt neutral addr help advbase advskew"
    long += " upscript downscript deadratio debug shutdown facility daemonize ignoreifstate nomcast"
    assert {name for name, *_ in OPTIONS} == {*long.split(), "xparam"}


@pytest.mark.parametrize(("name", "letter", "value", "_text"), OPTIONS, ids=lambda x: None)
def test_short_long_joined_and_abbreviated(name: str, letter: str, value: str, _text: str) -> None:
    known = [other for other, *_ in OPTIONS]
    shortest = next(
        name[:n]
        for n in range(1, len(name) + 1)
        if name[:n] == name or sum(other.startswith(name[:n]) for other in known) == 1
    )
    if value:
        spellings = [[f"-{letter}", "7"], [f"-{letter}7"], [f"-D{letter}7"], [f"--{name}", "7"]]
        spellings += [[f"--{name}=7"], [f"--{shortest}=7"], [f"--{shortest}", "7"]]
        wanted = (name, "7")
    else:
        spellings = [[f"-{letter}"], [f"-D{letter}"], [f"--{name}"], [f"--{shortest}"]]
        wanted = (name, "")
    for spelling in spellings:
        assert split(spelling)[-1] == wanted


def test_mcast_is_short_for_mcastip() -> None:
    assert read("--mcast 239.1.2.3").mcastip == read("-m239.1.2.3").mcastip == "239.1.2.3"


def test_words_that_are_no_options_are_passed_over() -> None:
    words = ["word", "-v", "1", "more", "-P", "--", "-n"]
    assert split(words) == [("vhid", "1"), ("preempt", "")]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--bogus", "option --bogus not recognized"),
        ("-Q", "option -Q not recognized"),
        ("--adv 1", "option --adv not a unique prefix"),
        ("--pas 1", "option --pas not a unique prefix"),
        ("-v", "option -v requires argument"),
        ("--vhid", "option --vhid requires argument"),
        ("--neutral=1", "option --neutral must not have an argument"),
    ],
)
def test_wrong_usage_is_refused_with_its_reason(line: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        split(line.split())


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("0x1F", 31), ("0X1f", 31), ("017", 15), ("0", 0), ("00", 0), (" 7", 7), ("+7", 7)]
    + [("-7", -7), ("-0x7", -7)]
    + [(text, None) for text in ("", "x", "7x", "08", "0x", "0xg", "7 ", "1e3", "--7", "\u0667")],
)
def test_numbers_as_strtoul_has_them(text: str, value: int | None) -> None:
    assert number(text) == value


@given(st.integers(-(2**70), 2**70))
def test_numbers_in_every_base(value: int) -> None:
    assert number(str(value)) == value
    assert number(hex(value)) == value
    assert number(oct(value).replace("o", "")) == value


@given(st.text(max_size=12))
def test_no_text_breaks_a_number(text: str) -> None:
    assert number(text) is None or text.strip()


def test_options_left_out_have_ucarps_defaults() -> None:
    options = read(COMPLETE)
    check(options)
    assert (options.advbase, options.advskew, options.deadratio) == (1, 0, 3)
    assert (options.mcastip, options.facility, options.password) == (
        "224.0.0.18",
        "daemon",
        b"secret",
    )
    flags = ("preempt", "neutral", "shutdown", "daemonize", "ignoreifstate", "nomcast", "debug")
    assert not any(getattr(options, name) for name in flags)
    assert options.notes == [
        "Warning: no script called when going up",
        "Warning: no script called when going down",
    ]


def test_flags_and_texts() -> None:
    options = read(f"{COMPLETE} -PnzBSMDh -u up.sh -d down.sh -x 'a -f LOCAL7 -m 239.0.0.1")
    flags = ("preempt", "neutral", "shutdown", "daemonize", "ignoreifstate", "nomcast", "debug")
    assert all(getattr(options, name) for name in (*flags, "help"))
    assert (options.upscript, options.downscript, options.xparam) == ("up.sh", "down.sh", "'a")
    assert (options.facility, options.mcastip) == ("local7", "239.0.0.1")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("-v 0", r"vhid must be between 1 and 255\."),
        ("-v 0x100", r"vhid must be between 1 and 255\."),
        ("-v seven", r"vhid must be between 1 and 255\."),
        ("-b 256", r"advbase must be between 0 and 255\. \[256\]"),
        ("-b -1", r"advbase must be between 0 and 255\. \[-1\]"),
        ("-k 256", r"advskew must be between 0 and 255\. \[256\]"),
        ("-k -5", r"advskew must be between 0 and 255\. \[-5\]"),
        ("-r 256", r"deadratio must be between 1 and 255\. \[256\]"),
        ("-s 10.0.0.256", r"Invalid address: \[10\.0\.0\.256\]"),
        ("-a ::1", r"Invalid address: \[::1\]"),
        ("-m 10.0.0", r"Invalid address: \[10\.0\.0\]"),
    ],
)
def test_values_that_are_refused(line: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text) as caught:
        read(line)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "You must supply a network interface"),
        ("-i eth0", "You must supply a valid virtual host id"),
        ("-i eth0 -v 1", "You must supply a password"),
        (f"{COMPLETE} -b0", "You must supply an advertisement time base"),
        ("-i eth0 -v 1 -p x", "You must supply a persistent source address"),
        ("-i eth0 -v 1 -p x -s 0.0.0.0", "You must supply a persistent source address"),
        ("-i eth0 -v 1 -p x -s 10.0.0.1", "You must supply a virtual host address"),
        (f"{COMPLETE} -r 0", "Dead ratio can't be zero"),
    ],
)
def test_what_is_missing(line: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        check(read(line))


def test_advskew_255_and_a_long_password() -> None:
    options = read(f"{COMPLETE} -k 255")
    check(options)
    assert any("advskew 255" in note for note in options.notes)
    assert read(f"{COMPLETE} -p {'x' * 19}").password == b"x" * 19
    with pytest.raises(SettingsError, match="Password too long") as caught:
        check(read(f"{COMPLETE} -p {'x' * 20}"))
    assert caught.value.exit_code == 2


def test_an_unknown_facility_stands_for_daemon() -> None:
    options = read("-f bogus -f none")
    assert (options.facility, options.faults) == ("none", ["Unknown syslog facility: [bogus]"])
    assert read("-f bogus").facility == "daemon"
    assert FACILITIES["local0"] == 16
    assert FACILITIES["daemon"] == 3


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret\nmore\n", b"secret"),
        (b"secret", b"secret"),
        (b" s \r\n", b" s \r"),
        (b"\n", b""),
        (b"a\0b\n", b"a"),
        (b"\xff\xfe\n", b"\xff\xfe"),
    ],
)
def test_the_last_of_password_and_passfile_counts(
    tmp_path: Path, content: bytes, password: bytes
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    options = Options()
    parse(["-p", "other", "-o", str(path)], options)
    assert (options.password, options.passfile) == (password, str(path))
    parse(["-p", "other"], options)  # the last one counts
    assert (options.password, options.passfile) == (b"other", None)


def test_a_passfile_that_others_may_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("secret\n")
    for mode, said in ((0o644, True), (0o640, False)):
        path.chmod(mode)
        options = read(f"{COMPLETE} -o {path}")
        check(options)
        assert (f"passfile {path} can be read by others" in options.notes) is said


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/nonexistent/x", "unable to open passfile .* for reading: No such file or directory"),
        ("/dev/null", "error reading passfile /dev/null: unexpected end of file"),
        ("/etc", "error reading passfile /etc: Is a directory"),
    ],
)
def test_a_passfile_that_cannot_be_read(path: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        read(f"-o {path}")


def test_the_virtual_host_and_its_frame() -> None:
    """As the engine gets it: the virtual MAC, the broadcast address, fields as on the wire."""
    options = read(f"{COMPLETE} -MPS -b 2 -k 200 -r 4 -u /up -m 239.1.2.3 -x y")
    host = ucarp.virtual_host(options)
    assert (host.name, host.addresses, host.settings.source) == (
        "eth0/1",
        ("10.0.0.9/32",),
        "10.0.0.1",
    )
    settings = host.settings
    assert (settings.preempt, settings.ignore_link_state, settings.manage_addresses) == (
        True,
        True,
        False,
    )
    assert (settings.up, settings.down, settings.xparam) == ("/up", None, "y")
    assert (settings.dialect, settings.replay) == ("ucarp", "off"), "ucarp enforces no order"
    from carp_fast.engine._engine import Engine
    from carp_fast.engine.actions import Advertise

    engine = Engine()
    engine.set_interface(0, 1_000_000_000)
    engine.add(0, Hosts().prepare(host), 1_000_000_000)
    engine.expire(20_000_000_000)
    actions = engine.take_actions(20_000_000_000)
    frames = [action.frame for action in actions if isinstance(action, Advertise)]
    assert frames[0][:12] == b"\xff" * 6 + bytes.fromhex("00005e000001")
    assert frames[0][26:34] == bytes((10, 0, 0, 1, 239, 1, 2, 3))
    assert frames[0][34:40] == bytes((0x21, 1, 200, 7, 0, 2))


def test_no_password_in_what_is_printed_of_options() -> None:
    options = read(COMPLETE)
    assert "secret" not in repr(options)
    assert "secret" not in repr(ucarp.virtual_host(options).settings)


@given(st.text("s3cretx-=p", min_size=1, max_size=8))
def test_a_password_is_blotted_out_wherever_it_stands(password: str) -> None:
    for words in (["-p", password], [f"-p{password}"], [f"--pass={password}"], ["-z", password]):
        hidden = without_password(words, password)
        assert hidden[-1].endswith("********")
        assert len(hidden) == len(words)


def test_the_summary_names_every_option() -> None:
    text = summary("ucarp", "1.2")
    for name, letter, value, _ in OPTIONS:
        assert f"--{name}" in text
        assert f"(-{letter}{' ' if value else ')'}" in text


# The ways in. Each is tried as a process: what is imported there is the point.


def run(*words: str, program: Path | None = None) -> subprocess.CompletedProcess[str]:
    first = [str(program)] if program else [sys.executable, "-m", "carp_fast"]
    return subprocess.run(
        [*first, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize("name", ["ucarp", "carp-fast-ucarp", "my-ucarp"])
def test_called_by_a_name_that_ends_in_ucarp(tmp_path: Path, name: str) -> None:
    installed = tmp_path / "carp-fast"
    installed.write_text(f"#!{sys.executable}\nfrom carp_fast.__main__ import main\nmain()\n")
    installed.chmod(0o755)
    (tmp_path / name).symlink_to(installed)
    by_name, by_word = run("-h", program=tmp_path / name), run("ucarp", "--help")
    assert by_name.returncode == by_word.returncode == 0
    assert by_name.stdout.startswith(f"{name}: the command line of ucarp 1.5.2")
    assert "--deadratio=<ratio> (-r <ratio>): " in by_word.stdout
    assert run("--version", program=installed).stdout.startswith("carp-fast ")
    wrong = run("--bogus", program=tmp_path / name)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == f"{name}: option --bogus not recognized; see {name} --help\n"


def test_no_arguments_are_a_wish_for_help() -> None:
    assert run("ucarp").stdout == run("ucarp", "-h").stdout != ""


def test_refusals_stand_on_stderr_with_the_time() -> None:
    done = run("ucarp", "-i", "lo", "-f", "none", "-v", "300")
    assert (done.returncode, done.stdout) == (1, "")
    stamp, _, text = done.stderr.partition(": ")
    assert text == "[ERROR] vhid must be between 1 and 255.\n"
    assert len(stamp) == len("2026-01-01T00:00:00.000000")


def test_what_runs_as_ucarp_imports_neither_click_nor_rich() -> None:
    code = "import sys, carp_fast.__main__, carp_fast.ucarp.main, carp_fast.ucarp.manner\n"
    code += "print([m for m in ('click', 'rich', 'tomllib.x', 'cryptography') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_what_runs_as_ucarp_listens_as_ucarp_does_where_packets_are_forwarded_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # pcap hears before a firewall or rp_filter drops: who heard nothing would be a second master.
    monkeypatch.setattr(plan, "forwards", lambda name: f"net.ipv4.conf.{name}.forwarding")
    host = ucarp.virtual_host(read(COMPLETE))
    assert plan.receive_path(configuration_of(host))[0] == "packet"
