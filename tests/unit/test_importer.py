"""`carp-fast import`: what ucarp's users have, as a configuration that `check` accepts."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_fast.cli import main as cli
from carp_fast.config.load import Configuration, load
from carp_fast.ucarp.importer import Imported, as_toml, import_files, running_ucarps

FIRST = (
    "ucarp -B -z -P -b 1 --interface=eth0 --srcip=10.10.10.1 --vhid=1 --pass=zxcvbn"
    " --addr=10.10.10.10 --upscript=/etc/vip-up.sh --downscript=/etc/vip-down.sh"
)


def write(directory: Path, name: str, text: str, mode: int = 0o600) -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def found_in(tmp_path: Path, text: str, name: str = "script") -> Imported:
    return import_files([write(tmp_path, name, text)], running=False)


def loaded(tmp_path: Path, found: Imported) -> Configuration:
    """The configuration that was made, read as `carp-fast check` reads it."""
    return load(write(tmp_path, "made.toml", as_toml(found)))


def table(found: Imported) -> dict[str, Any]:
    [(_, only)] = found.tables
    return only


def test_one_command_line(tmp_path: Path) -> None:
    found = found_in(tmp_path, FIRST + "\n")
    assert found.lost == []
    assert table(found) == {
        "interface": "eth0",
        "vhid": 1,
        "addresses": "10.10.10.10/32",
        "passphrase": "zxcvbn",
        "source": "10.10.10.1",
        "preempt": True,
        "manage_addresses": False,
        "advertise_mac": "ucarp",
        "up": "/etc/vip-up.sh",
        "down": "/etc/vip-down.sh",
    }
    [host] = loaded(tmp_path, found).virtual_hosts
    assert host.settings.passphrase == b"zxcvbn"
    assert (host.name, host.addresses) == ("eth0/1", ("10.10.10.10/32",))


def test_every_option_that_has_a_key(tmp_path: Path) -> None:
    secret = write(tmp_path, "secret", "word\n")
    line = f"ucarp -i eth0 -s 10.0.0.1 -v 0x10 -o {secret} -a 10.0.0.9 -b 2 -k 200 -r 4 -n -z"
    line += " -S -M -m 239.1.2.3 -x 'two words' -f local1"
    found = found_in(tmp_path, line)
    made = table(found)
    wanted = {"advbase": 2, "advskew": 200, "dead_ratio": 4, "destination": "239.1.2.3"}
    wanted |= {"broadcast": True, "ignore_link_state": True, "xparam": "two words", "vhid": 16}
    wanted |= {"preempt": False, "passphrase_file": str(secret)}
    assert {key: made[key] for key in wanted} == wanted
    assert "up" not in made
    assert [note.split(": ", 1)[1] for note in found.notes] == [
        "facility local1: the log goes to stderr and the journal"
    ]
    [host] = loaded(tmp_path, found).virtual_hosts
    assert host.settings.passphrase == b"word"


WRAPPED = f"""#!/bin/sh
# ucarp -i eth9 -v 9 ... is only a comment
DAEMON=/usr/sbin/ucarp
NAME=ucarp
VIP="10.0.0.9"
OPTS="-z -P"
[ -x $DAEMON ] || exit 0
which ucarp; killall -q ucarp; pidof ucarp
case "$1" in
  start) start-stop-daemon --start --exec $DAEMON -- -i eth0 -s 10.0.0.1 -v 1 \\
      -p 'pa$$word' -a ${{VIP}} $OPTS > /dev/null 2>&1 && echo done ;;
  stop) start-stop-daemon --stop --name $NAME ;;
esac
nohup /usr/local/sbin/ucarp -i eth1 -s 10.0.1.1 -v 2 -p "with space" -a 10.0.1.9 &
ExecStart=/usr/sbin/ucarp -i eth2 -s 10.0.2.1 -v 3 -p x -a 10.0.2.9
carp-fast ucarp -i eth3 -s 10.0.3.1 -v 4 -p x -a 10.0.3.9
ucarp -i eth4 -s 10.0.4.1 -v 5 -p $SECRET -a 10.0.4.9
ucarp -i eth5 -s 10.0.5.1 -v 300 -p x -a 10.0.5.9
{FIRST}
"""


def test_scripts_units_and_wrappers(tmp_path: Path) -> None:
    found = found_in(tmp_path, WRAPPED)
    hosts = [(made["interface"], made["vhid"], made["passphrase"]) for _, made in found.tables]
    assert hosts == [
        ("eth0", 1, "pa$$word"),
        ("eth1", 2, "with space"),
        ("eth2", 3, "x"),
        ("eth3", 4, "x"),
    ]
    script = tmp_path / "script"
    assert found.lost == [
        f"{script}:17: not translated: $SECRET is not known; give it its value",
        f"{script}:18: not translated: vhid must be between 1 and 255.",
        f"{script}:19: not translated: eth0/1 is already in {script}:10",
    ]
    assert found.tables[0][1]["preempt"] is True
    text = as_toml(found)
    assert all(f"# {lost}" in text for lost in found.lost)
    assert len(loaded(tmp_path, found).virtual_hosts) == 4


def test_what_differs_is_said_once_for_all(tmp_path: Path) -> None:
    line = "ucarp -i eth0 -s 10.0.0.1 -v {} -p x -a 10.0.0.9 -d /bin/down -k 255\n"
    found = found_in(tmp_path, line.format(1) + line.format(2))
    text = as_toml(found)
    assert text.count("and 1 more: the down script is not run at the start, as with --neutral") == 1
    assert text.count("and 1 more: at the end the down script is run and the host resigns") == 1
    assert text.count("and 1 more: advskew 255 becomes 254") == 1
    # Said alike by both, so said once: in [defaults].
    parsed = tomllib.loads(text)
    assert parsed["defaults"]["down"] == "/bin/down"
    assert [set(each) for each in parsed["virtual_host"]] == [
        {"interface", "vhid", "addresses"}
    ] * 2


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("'encrypted:x'", 'the password begins with "encrypted:", the mark of encryption'),
        ("'********'", "its password is hidden; import the command line's own source"),
        ("12345678901234567890", "Password too long"),
    ],
)
def test_passwords_that_cannot_be_written(tmp_path: Path, password: str, why: str) -> None:
    line = f"ucarp -i eth0 -s 10.0.0.1 -v 1 -a 10.0.0.9 -p {password}"
    [lost] = found_in(tmp_path, line).lost
    assert lost.endswith(f": not translated: {why}")


def test_a_password_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_bytes(b"ucarp -i eth0 -s 10.0.0.1 -v 1 -a 10.0.0.9 -p \xff\xfe\n")
    [lost] = import_files([path], running=False).lost
    assert lost.endswith("the password is not UTF-8; put it into a passfile")


def test_relative_paths_start_from_where_the_script_is(tmp_path: Path) -> None:
    write(tmp_path, "secret", "x\n", mode=0o644)
    line = "ucarp -i eth0 -s 10.0.0.1 -v 1 -a 10.0.0.9 -o secret -u up.sh -n -z"
    found = found_in(tmp_path, line)
    assert table(found)["up"] == str(tmp_path / "up.sh")
    assert table(found)["passphrase_file"] == str(tmp_path / "secret")
    assert found.notes == [
        f"{tmp_path / 'script'}:1: others may read {tmp_path / 'secret'}: carp-fast refuses it,"
        " chmod 600"
    ]


INTERFACES = """
auto lo eth0
iface lo inet loopback
source /etc/network/interfaces.d/*

iface eth0 inet static
    address 10.0.0.2/24
    ucarp-vid 3
    ucarp-vip 10.0.0.1
    ucarp-password 16charsatmost
    ucarp-advskew 1
    ucarp-advbase 2
    ucarp-master yes
    ucarp-colour blue
iface eth0:ucarp inet static
    address 10.0.0.1
    netmask 255.255.255.255

iface eth1 inet static
    address 10.0.1.2
    ucarp-vid 4
    ucarp-vip 10.0.1.1
    ucarp-password x
    ucarp-master no
    ucarp-nomcast true
    ucarp-deadratio 5
    ucarp-xparam more
    ucarp-upscript /up
    ucarp-downscript /down

iface eth2 inet dhcp
    ucarp-vid 5
    ucarp-vip 10.0.2.1
    ucarp-password x
iface eth3 inet static
    ucarp-vid 6
"""


def test_an_interfaces_file_of_debian(tmp_path: Path) -> None:
    found = found_in(tmp_path, INTERFACES, "interfaces")
    path = tmp_path / "interfaces"
    first, second, third = (made for _, made in found.tables)
    wanted = {"interface": "eth0", "vhid": 3, "addresses": "10.0.0.1/32", "source": "10.0.0.2"}
    wanted |= {"preempt": True, "advbase": 2, "advskew": 1, "passphrase": "16charsatmost"}
    wanted |= {"up": "/usr/share/ucarp/vip-up", "down": "/usr/share/ucarp/vip-down"}
    assert {key: first[key] for key in wanted} == wanted
    wanted = {"interface": "eth1", "preempt": False, "broadcast": True, "dead_ratio": 5}
    wanted |= {"xparam": "more", "up": "/up", "down": "/down", "source": "10.0.1.2"}
    assert {key: second[key] for key in wanted} == wanted
    assert "source" not in third
    assert found.lost == [
        f"{path}:35: not translated: iface eth3 has ucarp-vid but no ucarp-vip, ucarp-password"
    ]
    for note in (
        f"{path}:4: source /etc/network/interfaces.d/*: not followed, name these files too",
        f"{path}:6: ucarp-colour blue: unknown, also to Debian's hook",
        f"{path}:31: no source address: the interface's first one is used",
    ):
        assert note in found.notes
    assert len(loaded(tmp_path, found).virtual_hosts) == 3


def test_the_files_of_red_hat(tmp_path: Path) -> None:
    write(
        tmp_path,
        "ucarp/vip-common.conf",
        '# common\nPASSWORD="love"\nBIND_INTERFACE="eth0"\nSOURCE_ADDRESS="10.0.0.2"\n'
        'OPTIONS="--shutdown --preempt"\n',
    )
    write(tmp_path, "ucarp/vip-001.conf", 'VIP_ADDRESS="10.0.0.11"\n')
    write(
        tmp_path,
        "ucarp/vip-010.conf",
        'VIP_ADDRESS="10.0.0.12"\nOPTIONS="$OPTIONS -k 7"\nUPSCRIPT=/up\nBIND_INTERFACE=eth1\n',
    )
    write(tmp_path, "ucarp/vip-009.conf", 'VIP_ADDRESS="10.0.0.13"\n')
    write(tmp_path, "ucarp/vip-web.conf", "VID=77\nVIP_ADDRESS=10.0.0.14\nsource other\n")
    directory = tmp_path / "ucarp"
    found = import_files([directory], running=False)
    made = {each["vhid"]: each for _, each in found.tables}
    assert set(made) == {1, 8, 77}
    assert made[1]["up"] == "/usr/libexec/ucarp/vip-up"
    assert (made[1]["passphrase"], made[1]["preempt"]) == ("love", True)
    assert (made[8]["advskew"], made[8]["up"], made[8]["interface"]) == (7, "/up", "eth1")
    # ucarp reads what begins with 0 as octal, and stops at a 9.
    assert f"{directory}/vip-010.conf: 010 is octal to ucarp: its vhid is 8" in found.notes
    assert found.lost == [
        f"{directory}/vip-009.conf: not translated: vhid must be between 1 and 255."
    ]
    assert f"{directory}/vip-web.conf:3: not a plain assignment: source other" in found.notes
    assert import_files([directory / "vip-001.conf"], running=False).tables[0][1] == made[1]


def fixture(proc: Path, count: int, scripts: Path) -> None:
    """/proc as it looks with `count` ucarps, a hidden password, and others that are none."""
    (proc / "self/ns").mkdir(parents=True)
    (proc / "self/ns/net").symlink_to("net:[1]")
    for index in range(count):
        line = f"/usr/sbin/ucarp -B -z -P -i eth{index // 50} -s 10.0.{index // 50}.1 -v"
        line += f" {1 + index % 50} -p fixture -a 10.0.{index // 50}.{100 + index % 50}"
        process(proc, 1000 + index, "ucarp", [*line.split(), "-u", str(scripts / "up")])
    process(proc, 5000, "ucarp", ["ucarp", "-i", "e", "-p", "********"])
    process(proc, 5001, "ucarp", ["ucarp", "-i", "eth0"], namespace="net:[2]")
    process(proc, 5002, "bash", ["bash", "-c", "ucarp -i eth0 -v 8 -p x"])
    (proc / "6000").mkdir()  # it has just ended


def process(proc: Path, pid: int, name: str, words: list[str], namespace: str = "net:[1]") -> None:
    (proc / str(pid) / "ns").mkdir(parents=True)
    (proc / str(pid) / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    (proc / str(pid) / "comm").write_text(f"{name}\n")
    (proc / str(pid) / "ns/net").symlink_to(namespace)
    (proc / str(pid) / "cwd").symlink_to("/")


def test_processes_of_this_namespace_are_imported_and_others_named(tmp_path: Path) -> None:
    fixture(tmp_path / "proc", 3, tmp_path)
    found = Imported()
    lines = list(running_ucarps(tmp_path / "proc", found))
    assert [line.origin for line in lines] == [f"process {n}" for n in (1000, 1001, 1002, 5000)]
    assert lines[0].arguments[:2] == ["-B", "-z"]
    assert lines[-1].arguments[:2] == ["-i", "e"]
    assert found.notes == [
        "process 5001: left out, it runs in another network namespace; import it there"
    ]


# The command.


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(
        cli.main, ["import", *map(str, arguments)], prog_name="carp-fast", catch_exceptions=False
    )


def test_a_hundred_command_lines_make_one_configuration_that_check_accepts(tmp_path: Path) -> None:
    lines = [
        f"ucarp -B -z -i nic{n // 50} -s 10.0.{n // 50}.1 -v {1 + n % 50} -p fixture"
        f" -a 10.0.{n // 50}.{100 + n % 50} -u /bin/true -d /bin/true"
        for n in range(100)
    ]
    script = write(tmp_path, "start-all.sh", "\n".join(lines))
    made = tmp_path / "made.toml"
    result = invoke(script, "-o", made)
    assert (result.exit_code, result.output) == (0, "")
    assert made.stat().st_mode & 0o777 == 0o600
    checked = CliRunner().invoke(cli.main, ["check", "-c", str(made)])
    assert checked.exit_code == 0, checked.output
    printed = [line for line in checked.stdout.splitlines() if not line.startswith("memory: ")]
    *rows, recording, sent_by, uncounted = printed[1:]
    assert recording.startswith("recording: ")
    assert sent_by.startswith("sent by: ")
    assert uncounted.startswith("not counted: ")
    assert [line.split()[:3] for line in rows] == [
        ["nic0", "missing", "50"],
        ["nic1", "missing", "50"],
        ["total", "100", "100.0"],
    ]
    assert len(made.read_text().splitlines()) < 100 * 7 + 20  # what all share stands once
    again = invoke(script, "-o", made)
    assert (again.exit_code, again.stderr) == (1, f"carp-fast: {made}: File exists\n")


def test_what_is_lost_is_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    script = write(tmp_path, "script", f"{FIRST}\nucarp -i eth1 -v 2 -p $P -a 10.0.0.9\n")
    result = invoke(script)
    assert result.exit_code == 1
    assert result.stderr == f"{script}:2: not translated: $P is not known; give it its value\n"
    assert len(tomllib.loads(result.stdout)["virtual_host"]) == 1


def test_nothing_to_import(tmp_path: Path) -> None:
    assert invoke().exit_code == 2
    missing = invoke(tmp_path / "missing")
    assert missing.stderr == f"carp-fast: {tmp_path / 'missing'}: No such file or directory\n"
    assert missing.exit_code == 1
    nothing = invoke(write(tmp_path, "empty", ""))
    assert nothing.exit_code == 1
    assert nothing.stderr == "carp-fast: no command line of ucarp was found\n"


# What the loader would refuse, and what is said elsewhere.


def line(**changed: str) -> str:
    words = {"-i": "eth0", "-s": "10.0.0.1", "-v": "1", "-a": "10.0.0.9", "-p": "x"}
    words |= {f"-{key}": value for key, value in changed.items()}
    return "ucarp " + " ".join(f"{key} '{value}'" for key, value in words.items())


@pytest.mark.parametrize(
    "refused",
    [
        {"i": "a-name-of-sixteen"},
        {"i": "eth[0-3]"},
        {"i": "eth[0"},
        {"i": "eth 0"},
        {"i": "eth/0"},
        {"s": "224.0.0.1"},
        {"s": "127.0.0.1"},
        {"s": "255.255.255.255"},
        {"a": "255.255.255.255"},
        {"i": "eth0\n[[virtual_host]]\nvhid = 66"},
        {"b": "0", "k": "255"},
        {"x": "a\x7fb\x01c\n"},
        {"u": "/a:b\x1f"},
        {"p": "p\x7f\n# [daemon]"},
        {"x": '"""\\u0000'},
        {"m": "10.0.0.77"},
        {"i": "eth0:1"},
        {"i": ":1"},
    ],
    ids=str,
)
def test_whatever_is_printed_loads_and_what_does_not_is_named(
    tmp_path: Path, refused: dict[str, str]
) -> None:
    text = f"{line(v='7')}\n{line(**refused)}\n{line(v='8', **refused)}\n"
    found = found_in(tmp_path, text)
    configuration = loaded(tmp_path, found)
    assert len(configuration.virtual_hosts) == len(found.tables)
    assert len(found.tables) + len(found.lost) == 3
    assert found.tables[0][1]["vhid"] == 7
    for host, (_, made) in zip(configuration.virtual_hosts, found.tables, strict=True):
        assert host.settings.xparam == made.get("xparam")
        assert host.settings.passphrase_text.decode() == made["passphrase"]
    assert as_toml(found).split("\n").count("[[virtual_host]]") == len(found.tables)


@settings(max_examples=150, deadline=None)
@given(
    values=st.dictionaries(
        st.sampled_from("isavpmxudbkr"), st.text(st.characters(exclude_characters="\0'"))
    )
)
def test_any_values_make_a_configuration_that_loads(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]
) -> None:
    directory = tmp_path_factory.mktemp("any")
    script = directory / "script"
    script.write_bytes(f"{line(v='7')}\n{line(**values)}\n".encode(errors="surrogatepass"))
    found = import_files([script], running=False)
    assert len(loaded(directory, found).virtual_hosts) == len(found.tables)
    assert len(found.tables) + len(found.lost) >= 2


def test_an_alias_is_its_interface(tmp_path: Path) -> None:
    found = found_in(tmp_path, line(i="eth0:1"))
    assert table(found)["interface"] == "eth0"
    where = f"{tmp_path / 'script'}:1"
    assert f"{where}: the alias eth0:1 is eth0, which is what the scripts get" in found.notes


def test_relative_paths_from_nowhere_are_named(tmp_path: Path) -> None:
    found = found_in(tmp_path, f"cd $SOMEWHERE\n{line(u='up.sh')}\n{line(v='2', u='/up.sh')}")
    assert [made["up"] for _, made in found.tables] == ["/up.sh"]
    assert found.lost == [
        f"{tmp_path / 'script'}:2: not translated:"
        " --upscript up.sh is relative to a directory that is not known"
    ]


# Passphrase files.


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_carriage_return_in_a_passfile_stays_part_of_the_key(tmp_path: Path, mode: int) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"word\r\n")
    secret.chmod(mode)
    found = found_in(tmp_path, f"ucarp -i eth0 -s 10.0.0.1 -v 1 -a 10.0.0.9 -o {secret} -n -z")
    [host] = loaded(tmp_path, found).virtual_hosts
    assert host.settings.passphrase == b"word\r"
    assert found.notes == [
        f"{tmp_path / 'script'}:1: {secret} ends its line in a carriage return, which is part of"
        " ucarp's password: the passphrase is written here, including it"
    ]


def test_a_passfile_that_a_group_may_read_is_named(tmp_path: Path) -> None:
    secret = write(tmp_path, "secret", "x\n", mode=0o640)
    os.chown(secret, -1, 12345)
    found = found_in(tmp_path, f"ucarp -i eth0 -s 10.0.0.1 -v 1 -a 10.0.0.9 -o {secret} -n -z")
    assert f"others may read {secret}: carp-fast refuses it, chmod 600" in found.notes[0]
    secret.chmod(0o600)
    assert len(loaded(tmp_path, found).virtual_hosts) == 1


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"encrypted:x\n", 'the password begins with "encrypted:", the mark of encryption'),
        (b"x\0y\n", "the passphrase holds a NUL byte"),
        (b"x\n" + b"y" * 5000, "is longer than 4096 bytes"),
        (b"12345678901234567890\n", "Password too long"),
    ],
)
def test_a_passfile_that_carp_fast_reads_otherwise_is_named(
    tmp_path: Path, content: bytes, why: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(content)
    secret.chmod(0o600)
    found = found_in(tmp_path, f"ucarp -i eth0 -s 10.0.0.1 -v 1 -a 10.0.0.9 -o {secret}")
    [lost] = found.lost
    assert why in lost
    assert found.tables == []


# Interfaces files.


def test_tabs_are_blanks_in_an_interfaces_file(tmp_path: Path) -> None:
    blanks = found_in(tmp_path, INTERFACES, "interfaces")
    tabs = found_in(tmp_path, INTERFACES.replace("    ", "\t").replace(" ", "\t"), "interfaces")
    assert tabs.tables == blanks.tables
    assert len(tabs.lost) == len(blanks.lost) == 1


def test_a_carriage_return_in_a_stanza_is_named(tmp_path: Path) -> None:
    found = found_in(tmp_path, INTERFACES.replace("16charsatmost", "16charsatmost\r"), "interfaces")
    where = tmp_path / "interfaces"
    assert f"{where}:6: not translated: line 10 ends in a carriage return" in found.lost[0]
    assert [made["interface"] for _, made in found.tables] == ["eth1", "eth2"]


def test_the_commands_of_a_stanza_are_read(tmp_path: Path) -> None:
    text = "iface eth0 inet static\n\taddress 10.0.0.1\n\tup\t/usr/sbin/ucarp -i $IFACE -s 10.0.0.1"
    text += " -v 1 -a 10.0.0.9 -p 'a b' -u /up &\n\tdown killall ucarp\n\tpost-up ucarp -i $X -v 2"
    found = found_in(tmp_path, text, "interfaces")
    assert (table(found)["interface"], table(found)["passphrase"]) == ("eth0", "a b")
    assert found.lost == [
        f"{tmp_path / 'interfaces'}:5: not translated: $X is not known; give it its value"
    ]


# Processes.


def test_a_process_writes_no_lines_of_a_configuration(tmp_path: Path) -> None:
    evil = '1.2.3\n[[virtual_host]]\ninterface = "eth0"\nvhid = 66\nup = "/tmp/evil.sh"\n#'
    proc = tmp_path / "proc"
    fixture(proc, 1, tmp_path)
    process(proc, 7000, "ucarp", ["ucarp", "-i", "eth0", "-v", "7", "-p", "x", "-a", evil])
    found = Imported()
    lines = list(running_ucarps(proc, found))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("carp_fast.ucarp.importer.running_ucarps", lambda *_: iter(lines))
        made = import_files([], running=True)
    parsed = tomllib.loads(as_toml(made))
    assert [each["vhid"] for each in parsed["virtual_host"]] == [1]
    assert any("Invalid address: [1.2.3\\u000a" in lost for lost in made.lost)
    assert all(text.isprintable() for text in made.lost)


def test_an_empty_last_argument_of_a_process_is_one(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    fixture(proc, 0, tmp_path)
    process(proc, 7000, "ucarp", ["ucarp", "-i", "eth0", "-x", ""])
    assert list(running_ucarps(proc, Imported()))[-1].arguments == ["-i", "eth0", "-x", ""]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_process_of_somebody_else_is_no_ucarp_to_follow(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    fixture(proc, 1, tmp_path)
    os.chown(proc / "1000", 12345, -1)
    found = Imported()
    assert [each.origin for each in running_ucarps(proc, found)] == ["process 5000"]
    assert found.lost == [
        "process 1000: not translated: it is a process of user 12345; import its own command line"
    ]
