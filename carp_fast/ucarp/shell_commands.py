"""What a shell's command starts: a ucarp, a text that another shell reads, or nothing relevant.

Knows the programs that run their arguments, and those that run nothing. Must not know how words are
written, statements, variables or files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from carp_fast.ucarp.shell_words import Unclear

Word = str | Unclear

MENTION = re.compile(r"ucarp[\"']?\s+-")  # a command line of ucarp in some text
SHELLS = frozenset({"sh", "dash", "bash", "ash", "ksh", "mksh", "busybox"})
# These run their arguments, in the same directory and unchanged.
WRAPPER_NAMES = """
    nohup exec env setsid nice ionice chrt taskset stdbuf sudo doas time command builtin daemon
    start_daemon carp-fast
"""
WRAPPERS = frozenset(WRAPPER_NAMES.split())
# These do not run their arguments.
SPEAKER_NAMES = """
    echo printf logger : true false test [ exit return cd read set shift unset cat grep egrep fgrep
    sed awk ps pgrep pkill killall pidof kill which type hash man rm touch mkdir ls chmod chown cp
    mv install apt apt-get dnf yum dpkg rpm systemctl service killproc pidofproc status_of_proc
    log_daemon_msg log_progress_msg log_success_msg log_failure_msg log_warning_msg log_begin_msg
    log_end_msg log_action_msg success failure action_msg
"""
SPEAKERS = frozenset(SPEAKER_NAMES.split())
STARTERS = WRAPPERS | SHELLS | {"start-stop-daemon"}
NOT_STARTING = ("-K", "--stop", "-T", "--status", "-t", "--test", "-H", "--help", "-V", "--version")
PROGRAM_OPTIONS = ("--startas", "--exec")  # of start-stop-daemon; the first one counts
READ_ALIKE_AGAIN = re.compile(r"[\w@%+=:,./-]+")  # words that a second parsing does not change
VHID, ADDRESS, SECRET = ("-v", "--vhid"), ("-a", "--addr"), ("-p", "-o", "--pass")


class Started(NamedTuple):
    """A ucarp that the script starts. `directory`: its working directory, None if not known."""

    line: int
    arguments: list[str]
    directory: Path | None


class Lost(NamedTuple):
    """A ucarp that is not known well enough, and why. `arguments`: those that it has, if known."""

    line: int
    why: str
    arguments: list[str] | None = None


class Remark(NamedTuple):
    """A remark on a line that the user should check."""

    line: int
    text: str


Found = Started | Lost | Remark


class Starts(NamedTuple):
    """A ucarp with these arguments; `at_root`: relative paths are below /."""

    arguments: list[str]
    at_root: bool = False


class Unknown(NamedTuple):
    """A ucarp, or possibly one, that is not known well enough."""

    why: str


class Text(NamedTuple):
    """A script to be read: by the named shell, or by the same one if the name is ""."""

    text: str
    shell: str


Meaning = Starts | Unknown | Text | None


def meaning(words: Sequence[Word], raw: str) -> Meaning:
    """What a command of these words starts; `raw` is its source text."""
    if not words:
        return None
    head, rest = words[0], words[1:]
    if isinstance(head, Unclear):
        return Unknown(str(head)) if _may_be_ucarp(head, words, raw) else None
    name = base(head)
    if name.endswith("ucarp"):
        return _ucarp(rest)
    if name == "start-stop-daemon":
        return _start_stop_daemon(rest, raw)
    if name == "eval":
        return _eval(rest, raw)
    if name in SHELLS:
        return _shell(name, rest, raw)
    if name in WRAPPERS:
        return _wrapped(name, rest, raw)
    return None if name in SPEAKERS else _mentioned(name, rest, raw)


def base(word: str) -> str:
    """The last part of a path."""
    return word.rpartition("/")[2]


def _ucarp(rest: Sequence[Word]) -> Meaning:
    if rest[:1] == ["--"]:
        rest = rest[1:]
    # The word "ucarp" in kill commands and tests is not followed by ucarp's options.
    if not rest or (isinstance(rest[0], str) and not rest[0].startswith("-")):
        return None
    plain: list[str] = []
    for word in rest:
        if isinstance(word, Unclear):
            return Unknown(str(word))
        plain.append(word)
    return Starts(plain)


def _wrapped(name: str, rest: Sequence[Word], raw: str) -> Meaning:
    for at, word in enumerate(rest):
        if isinstance(word, Unclear):
            if _may_be_ucarp(word, rest, raw):
                return Unknown(str(word))
            continue
        if base(word).endswith("ucarp") or base(word) in STARTERS:
            found = meaning(rest[at:], raw)
            if found is None:
                continue
            again = name == "daemon" and not all(
                isinstance(each, str) and READ_ALIKE_AGAIN.fullmatch(each) for each in rest[at:]
            )
            return Unknown("daemon parses its words again") if again else found
    return _mentioned(name, rest, raw)


def _start_stop_daemon(rest: Sequence[Word], raw: str) -> Meaning:
    before, after = list(rest), list[Word]()
    if "--" in before:
        at = before.index("--")
        before, after = before[:at], before[at + 1 :]
    if any(isinstance(word, str) and word.startswith(NOT_STARTING) for word in before):
        return None
    programs: dict[str, Word] = {}
    for word, value in zip(before, [*before[1:], ""], strict=False):
        if not isinstance(word, str):
            continue
        option, equals, inline = word.partition("=")
        if re.fullmatch(r"-\w*[ax]", word):  # joined short options: the last one takes the value
            option, equals = {"a": "--startas", "x": "--exec"}[word[-1]], ""
        if option in PROGRAM_OPTIONS:
            programs[option] = inline if equals else value
    program = next((programs[option] for option in PROGRAM_OPTIONS if option in programs), None)
    if program is None:
        return _mentioned("start-stop-daemon", rest, raw)
    found = meaning([program, *after], raw)
    moved = any(
        isinstance(w, str) and w.startswith(("-d", "--chdir", "-r", "--chroot")) for w in before
    )
    if isinstance(found, Starts) and not moved:
        return found._replace(at_root=True)
    return Unknown("start-stop-daemon runs it elsewhere") if found is not None and moved else found


def _eval(rest: Sequence[Word], raw: str) -> Meaning:
    plain = [word for word in rest if isinstance(word, str)]
    if len(plain) == len(rest):
        return Text(" ".join(plain), "")
    return Unknown("eval runs what is unknown here") if "ucarp" in raw else None


def _shell(name: str, rest: Sequence[Word], raw: str) -> Meaning:
    for at, word in enumerate(rest):
        if isinstance(word, Unclear) or not word.startswith("-"):
            return None  # a script of its own
        if "c" in word and not word.startswith("--"):
            for text in rest[at + 1 :]:
                if isinstance(text, Unclear):
                    return Unknown(str(text)) if _may_be_ucarp(text, rest, raw) else None
                if not text.startswith("-"):
                    return Text(text, name)
    return None


def _mentioned(name: str, rest: Sequence[Word], raw: str) -> Meaning:
    """Another program that may start the ucarp among its arguments."""
    why = f"{name} runs it, in its own way; give ucarp's own command line"
    if name in {"xargs", "parallel"} and "ucarp" in raw:
        return Unknown(why)
    for word, after in zip(rest, [*rest[1:], ""], strict=False):
        if isinstance(word, Unclear):
            if any(MENTION.search(each) for each in word.candidates):
                return Unknown(why)
        elif MENTION.search(word) or (base(word).endswith("ucarp") and _is_option(after)):
            return Unknown(why)
    return Unknown(why) if MENTION.search(raw) else None


def _is_option(word: Word) -> bool:
    return isinstance(word, Unclear) or word.startswith("-")


def _may_be_ucarp(word: Unclear, words: Sequence[Word], raw: str) -> bool:
    """Whether an unknown word may be ucarp, by its candidates, its text, or what follows."""
    if any(each.endswith("ucarp") or MENTION.search(each) for each in word.candidates):
        return True
    options = [each for each in words if isinstance(each, str) and each.startswith("-")]
    if "ucarp" in raw and options:
        return True
    return all(any(each.startswith(some) for each in options) for some in (VHID, ADDRESS, SECRET))


def reads_only(options: list[Word]) -> bool:
    """Whether `set` has the shell read what follows, and not run it."""
    words = [word for word in options if isinstance(word, str)]
    return "noexec" in words or any(re.fullmatch(r"-[a-zA-Z]*n[a-zA-Z]*", word) for word in words)
