"""Scenarios: the inputs of virtual hosts and all that they then do, line by line.

One format for scenarios written by hand, for recordings of a daemon, and for tests. A TOML file:

story       prose
host        a table, or [[host]] for several, with the keys of a virtual host's configuration
            (HOST_KEYS) and `interface`, `name` ("eth0/42"), `slot` (its phase), `state` (an
            earlier state, see Engine.assume), `demoted` (by "operator" and "maintenance", from the
            beginning), `barred`, `withheld` (likewise)
interface   tables by name: source, source6, mac, ifindex, up, forwards6, renamed. Without them
            `source` and `source6` of the host are those of its interface; with them, its own
start_ns, tick_ns, seed, pace, turns
            of a recording: the clock at 0, the wake tick, the seed of the engine, its pace of
            announcements (an interface's a second, at once, a second in all), and that deadlines
            are checked only at `turn` lines
transcript  lines of `SECONDS [NAME] INPUT` and `SECONDS [NAME] > OUTPUT` in the order of events;
            a scenario of one virtual host needs no names. The last line is an `end`

Inputs, for a virtual host unless stated otherwise:
  hear SOURCE ADVBASE/ADVSKEW [PASSPHRASE] [counter N] [demote N] [mac MAC] [to DESTINATION]
  hear SOURCE VERDICT               a frame that is refused with VERDICT; SOURCE may be -
  link up|down                      (for an interface)
  interface up|down|missing [source A] [source6 A] [mac MAC] [ifindex N] [router] [renamed]
            [announce]              (for an interface; see Engine.set_interface)
  demote N [operator|track|group|maintenance]    the demotion by one reason, 0: none
  demote N track hard               ... and the host cannot be MASTER
  remove | address_lost [undemoted] | announce | in_use yes|no
  yield [maintenance] | preempt     hands over, or takes over, once
  withhold yes|no                   whether it takes no part, in maintenance
  by_route yes|no                   whether its IPv4 addresses are added as local routes
  found ADDRESS none|ours|foreign|route
                                    the unexpected state of an address on its interface
  own_source there|missing [4] [6]  which configured sources the machine lacks
  adopt ADDRESS                     the kernel has the address already, with our mark
  reload [PASSPHRASE GRACE_S] [KEY=VALUE]...     changed keys of the host
  kernel ADDRESS|sends ERROR|ok     the kernel's answer from now on; `sends ERROR N`: to N frames of
                                    each advertisement
  begin                             the host begins here, from its `state`, not at the start
  resign | kill | start             (for all)
  away                              deadlines wait for the next line
  stall [SECONDS [ASLEEP_S]]        deadlines were not checked since SECONDS, or since away; the
                                    clock did not count ASLEEP_S of that
  drop [SECONDS]                    frames were lost since SECONDS, or since the last turn
  turn [SECONDS]                    deadlines are checked after all frames that arrived by SECONDS
  end
Outputs: STATE reason | ADVERTISE ADVBASE/ADVSKEW [demote N] | RESIGN 255/255 | ADD_ADDRESSES A...
  REMOVE_ADDRESSES A... | ADD_ROUTES A... | REMOVE_ROUTES A... | ANNOUNCE A... | UNDEMOTED
  refused VERDICT

Holds the reader and the writer of the format. Must not know more of the engine than the keys that
it reads, nor how a scenario is played.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from carp_fast.engine.keys import ALL_KEYS
from carp_fast.errors import CarpFastError

SECOND_NS = 1_000_000_000
START_NS = 1_000 * SECOND_NS  # the clock at the start of a scenario written by hand
TIME_DIGITS = 9
TIME_MAX_S = 1_000_000_000  # 31 years: in ns it has room in 64 bits
INPUTS = """hear link interface demote remove address_lost found announce adopt own_source
    in_use by_route yield preempt withhold reload kernel begin resign stall drop kill
    start away turn end"""
VERBS = frozenset(INPUTS.split())
HOST_WORDS = """interface name slot state vhid addresses unsigned_addresses retired_addresses
    passphrase source source6 destination destination6 peers lladdr counter broadcast demoted barred
    withheld"""
HOST_KEYS = frozenset((*HOST_WORDS.split(), *(key.table or key.name for key in ALL_KEYS)))
INTERFACE_KEYS = frozenset(("source", "source6", "mac", "ifindex", "up", "forwards6", "renamed"))
# Words of an interface's line without a value, and the argument of Engine.set_interface.
INTERFACE_FLAGS = {"router": "forwards6", "renamed": "renamed", "announce": "announce"}
KEYS = frozenset(
    ("story", "host", "interface", "transcript", "start_ns", "tick_ns", "seed", "pace", "turns")
)
HOST_DEFAULTS: dict[str, Any] = {
    "interface": "eth0",
    "vhid": 42,
    "addresses": ["10.77.0.100/24"],
    "passphrase": "secret",
}
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
DEFAULT_MAC = "02:00:00:00:00:01"
HEARD_MAC = "02:00:00:00:00:99"  # source MAC of frames of other hosts
# Larger integers are written as text.
TOML_INTEGER_MAX = 2**63 - 1


class ScenarioError(CarpFastError, ValueError):
    """Raised when a file is not a valid scenario; one line names file, place and fault."""


class Line(NamedTuple):
    """One line of a transcript. `name`: "" if none is given; `words` begin with the verb."""

    number: int
    at_ns: int  # since the start
    digits: int  # of its seconds
    name: str
    output: bool
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


class Scenario(msgspec.Struct, kw_only=True):
    """A scenario; its tables are as parsed from TOML, with known keys only."""

    hosts: list[dict[str, Any]]
    interfaces: dict[str, dict[str, Any]]
    lines: list[Line]
    story: str = ""
    start_ns: int = START_NS
    tick_ns: int | None = None
    seed: int = 1
    pace: tuple[int, int, int] = (10_000, 512, 0)
    turns: bool = False


# ------------------------------------------------------------------------------- values as text


def seconds_text(at_ns: int, digits: int = TIME_DIGITS) -> str:
    """Seconds with `digits` decimals, rounded half to even; exact with TIME_DIGITS."""
    unit = 10 ** (TIME_DIGITS - digits)
    whole, rest = divmod(abs(at_ns), unit)
    whole += rest * 2 > unit or (rest * 2 == unit and whole % 2)
    seconds, part = divmod(whole, 10**digits)
    sign = "-" if at_ns < 0 and whole else ""
    return f"{sign}{seconds}.{part:0{digits}}" if digits else f"{sign}{seconds}"


def seconds_ns(text: str) -> tuple[int, int]:
    """(ns, digits) of seconds such as "5.391". Raises ValueError."""
    sign = -1 if text.startswith("-") else 1
    whole, _, part = text.removeprefix("-").partition(".")
    if not whole.isdecimal() or (part and not part.isdecimal()) or len(part) > TIME_DIGITS:
        raise ValueError(f"{text}: not seconds with at most {TIME_DIGITS} digits")
    if len(whole) > len(str(TIME_MAX_S)) or float(f"{whole}.{part}") > TIME_MAX_S:
        raise ValueError(f"{text[:20]}: more than {TIME_MAX_S:,} seconds")
    return sign * (int(whole) * SECOND_NS + int(part.ljust(TIME_DIGITS, "0"))), len(part)


# ---------------------------------------------------------------------------------------- reading


def read(path: Path) -> Scenario:
    """The scenario in a file. Raises ScenarioError."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ScenarioError(f"{path}: {reason}") from error
    return parse(text, str(path))


def parse(text: str, file: str = "scenario") -> Scenario:
    """The scenario in a TOML document; `file` names it in errors. Raises ScenarioError."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{file}: {error}") from error
    _check_keys(file, "", document, KEYS)
    hosts = document.get("host", {})
    hosts = [hosts] if isinstance(hosts, dict) else hosts
    if not isinstance(hosts, list) or not all(isinstance(host, dict) for host in hosts):
        raise ScenarioError(f"{file}: host: must be a table or an array of tables")
    interfaces = document.get("interface", {})
    if not isinstance(interfaces, dict):
        raise ScenarioError(f"{file}: interface: must be tables by name")
    for number, host in enumerate(hosts):
        _check_keys(file, f"host[{number}]", host, HOST_KEYS)
    for name, table in interfaces.items():
        _check_keys(file, f"interface.{name}", table, INTERFACE_KEYS)
    try:
        return msgspec.convert(
            {
                **{key: document[key] for key in document if key in Scenario.__struct_fields__},
                "seed": int(document.get("seed", 1)),
                "hosts": [named({**HOST_DEFAULTS, **host}) for host in hosts],
                "interfaces": interfaces,
                "lines": _lines(file, document.get("transcript")),
            },
            Scenario,
        )
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise ScenarioError(f"{file}: {error}") from error


def named(host: dict[str, Any]) -> dict[str, Any]:
    return {"name": f"{host['interface']}/{host['vhid']}", **host}


def _check_keys(file: str, table: str, given: Any, known: Iterable[str]) -> None:
    where = f"{file}: {table}: " if table else f"{file}: "
    if not isinstance(given, dict):
        raise ScenarioError(f"{where}must be a table")
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ScenarioError(f"{where}{key}: unknown key{hint}")


def _lines(file: str, transcript: Any) -> list[Line]:
    if not isinstance(transcript, str):
        raise ScenarioError(f"{file}: transcript: must be a string of lines")
    lines = []
    for number, text in enumerate(transcript.splitlines(), 1):
        if text.strip():
            try:
                lines.append(parse_line(text, number))
            except ValueError as error:
                raise ScenarioError(f"{file}: transcript line {number}: {error}") from error
    if not lines or lines[-1].words != ("end",):
        raise ScenarioError(f"{file}: transcript: the last line must be `end`")
    return lines


def parse_line(text: str, number: int = 0) -> Line:
    """One line of a transcript. Raises ValueError."""
    seconds, *words = text.split()
    at_ns, digits = seconds_ns(seconds)
    name = ""
    if words and words[0] != ">" and words[0] not in VERBS:
        name, *words = words
    output = bool(words) and words[0] == ">"
    words = words[1:] if output else words
    if not words:
        raise ValueError(f"{text.strip()}: is neither an input nor an output")
    if not output and words[0] not in VERBS:
        raise ValueError(f"{words[0]}: not an input; allowed: {', '.join(sorted(VERBS))}")
    return Line(number, at_ns, digits, name, output, tuple(words))


# ---------------------------------------------------------------------------------------- writing


def toml_value(value: Any) -> str:
    """A value in TOML, on one line; an integer above TOML_INTEGER_MAX as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        pairs = (f"{_toml_key(key)} = {toml_value(each)}" for key, each in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    if isinstance(value, int) and value > TOML_INTEGER_MAX:
        value = str(value)
    # JSON's strings and numbers are valid TOML.
    return msgspec.json.encode(value).decode()


def _toml_key(key: str) -> str:
    """A key, quoted if it is not bare, as with the dots and colons of interfaces and addresses."""
    return key if BARE_KEY.fullmatch(key) else msgspec.json.encode(key).decode()


def toml_lines(
    top: Mapping[str, Any], hosts: Iterable[Mapping[str, Any]], transcript: Iterable[str]
) -> Iterator[str]:
    """The lines of a scenario's file; `story` in `top` becomes a multi-line string."""
    for key, value in top.items():
        if key == "story":
            yield 'story = """'
            yield from str(value).splitlines()
            yield '"""'
        else:
            yield f"{key} = {toml_value(value)}"
    yield 'transcript = """'
    yield from transcript
    yield '"""'
    for host in hosts:
        yield ""
        yield "[[host]]"
        for key, value in host.items():
            yield f"{key} = {toml_value(value)}"
