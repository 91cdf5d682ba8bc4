"""Scripts as `carp-fast import` reads them, beside what shells make of them.

The oracle is the shell itself: each script is run with a `ucarp` on the PATH that writes down its
arguments, and what is translated must be among them; what is not must be named.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carp_fast.ucarp.importer import import_files
from carp_fast.ucarp.shell_commands import Started
from carp_fast.ucarp.shell_scripts import started
from tests.support.shells import Shells, read

U = "ucarp -i eth0 -s 10.0.0.1 -a 10.0.0.13"


@pytest.fixture(scope="module")
def shells(tmp_path_factory: pytest.TempPathFactory) -> Shells:
    return Shells(tmp_path_factory.mktemp("shells"))


# Each of these is translated, and as bash has it.
TRANSLATED = {
    "a dollar behind a backslash in double quotes": f'{U} -v 1 -p "S3\\$krt"',
    "a number sign within a word": f"{U} -v 1 -p a#b -P -k 100",
    "a number sign that begins a comment": f"{U} -v 1 -p a #b -P -k 100",
    "single quotes": f"{U} -v 1 -p 'it is $1 `x` \\ \"'",
    "double quotes": f'{U} -v 1 -p "a \'b\' \\"c\\" \\\\ \\x"',
    "ANSI-C quotes": f"{U} -v 1 -p $'a\\tb\\'\\x41\\101\\u00e9' -x $'\\e'",
    "backslashes": f"{U} -v 1 -p a\\ b\\$c\\\\\\\"\\'\\a",
    "quotes joined": f"{U} -v 1 --pass=\"a b\"c'd e'f\\ g$'h'",
    "an empty word": f"{U} -v 1 -p x -x ''",
    "an empty word in double quotes": f'{U} -v 1 -p x -x "" -P',
    "a line that goes on": f"{U} -v 1 \\\n  -p x \\\n\t-P",
    "a word that goes on": f"{U} -v 1 -p ab\\\ncd -P",
    "a quoted word that goes on": f'{U} -v 1 -p "ab\\\ncd" -P',
    "a quoted word of two lines": f"{U} -v 1 -p x -x 'ab\ncd' -P",
    "an assignment": f'P="a b"\n{U} -v 1 -p "$P" -x "${{P}}c"',
    "blanks between variables in quotes": f'A=1\nB=2\n{U} -v 1 -p "$A  $B " -x " $A\t$B"',
    "a variable that is split": f'OPTS="-z  -P\t-k 7"\n{U} -v 1 -p x $OPTS',
    "a variable that is split within a word": f'A="x y"\n{U} -v 1 -p a$A"b" -z',
    "an empty variable": f'A=\n{U} -v 1 -p x $A -x "$A" -z',
    "a variable that is quoted in its assignment": f"A='$B'\n{U} -v 1 -p \"$A\"",
    "assignments on one line": f"A=1 B=2; C=$A$B\n{U} -v 1 -p $C",
    "an appended variable": f"A=1\nA+=2\n{U} -v 1 -p $A",
    "export, readonly, declare": f"export A=1\nreadonly B=2\ndeclare C=3\n{U} -v 1 -p $A$B$C",
    "an assignment before the command, too late for it": f"A=1\nA=2 {U} -v 1 -p $A",
    "several with &": f"{U} -v 1 -p x & {U} -v 2 -p y &",
    "several with ;": f"{U} -v 1 -p x; {U} -v 2 -p y;",
    "several with &&": f"{U} -v 1 -p x && {U} -v 2 -p y",
    "a pipe": f"{U} -v 1 -p x 2>&1 | cat",
    "redirections": f">/dev/null {U} -v 1 2>&1 -p x </dev/null -P",
    "&>": f"{U} -v 1 -p x &>/dev/null",
    "nohup": f"nohup {U} -v 1 -p x >/dev/null 2>&1 &",
    "setsid and env": f'setsid env A=1 B="x y" {U} -v 1 -p x',
    "exec": f"exec {U} -v 1 -p x",
    "nice": f"nice -n 5 {U} -v 1 -p x",
    "command": f"command {U} -v 1 -p x",
    "a group and a subshell": f"{{ {U} -v 1 -p x; }}\n( {U} -v 2 -p y )",
    "a function": f"go() {{\n  local K=3\n  {U} -v 1 -p x -k $K\n}}\nK=5\ngo\n{U} -v 2 -p x -k $K",
    "the case of a start": f'case "$1" in\n  stop) : ;;\n  start|go) {U} -v 1 -p x ;;\nesac',
    "start compared": f'if [ "$1" = start ]; then {U} -v 1 -p x; fi',
    "a test for a file": f"if [ -x /bin/sh ]; then {U} -v 1 -p x; fi",
    "a test that ends the script": f"[ -x /bin/sh ] || exit 0\n{U} -v 1 -p x",
    "a check whether it runs": f"pidof no-such-ucarp || {U} -v 1 -p x",
    "sh -c": f"sh -c '{U} -v 1 -p \"a b\"'",
    "sh -c with exported variables": f"export A='a b'\nB=2\nsh -c '{U} -v 1 -p \"$A\"'",
    "eval": f"A=1\neval '{U} -v 1 -p $A'",
    "a word of commands in a variable": "D=ucarp\nO='-i eth0'\n$D $O -v 1 -p x",
    "the same in both arms": f"if false; then A=1; else A=1; fi\n{U} -v 1 -p $A",
    "a here-document": f"cat <<END\n{U} -v 9 -p $x\nEND\n{U} -v 1 -p x",
    "a here-document that is quoted": f"cat <<'END'\n{U} -v 9 -p '\nEND\n{U} -v 1 -p x",
    "words behind a here-document": f"{U} -v 1 <<END -p x\ntext\nEND\n",
    "echo": f"echo {U} -v 9 -p x\n{U} -v 1 -p x",
    "a comment": f"# {U} -v 9 -p x\n{U} -v 1 -p x",
    "what is no UTF-8": f"{U} -v 1 -p x -x a\udcffb",
    "umlauts": f'{U} -v 1 -p "ä$IFSx" -x ü'.replace("$IFSx", "ö"),
    "a subshell's variable": f"A=1\n( A=2 )\n{U} -v 1 -p $A",
    "a pipe's variable": f"A=1\nA=2 | cat\n{U} -v 1 -p $A",
    "a here-string": f"{U} -v 1 -p x <<<text",
    "time and a negation": f"time {U} -v 1 -p x\n! {U} -v 2 -p x",
    "an output to a process": f"{U} -v 1 -p x > >(cat)",
    "descriptors moved and closed": f"exec 3>/dev/null\n{U} -v 1 -p x >&3 3>&-",
    "a file overwritten": f"{U} -v 1 -p x >|/dev/null",
    "a function by its keyword": f"function go {{ {U} -v 1 -p x; }}\ngo",
    "a function that is a subshell": f"go() ( {U} -v 1 -p x )\ngo",
    "a function that sets a variable": f"K=1\ngo() {{ K=2; }}\ngo\n{U} -v 1 -p x -k $K",
    "a function in the background": f"A=1\nf() {{ A=2; }}\nf &\nwait\n{U} -v 1 -p $A",
    "a function defined anew": f"go() {{ {U} -v 1; }}\ngo() {{ {U} -v 2 -p x; }}\ngo",
    "a function of a function": f"f() {{ g() {{ {U} -v 1 -p x; }}; }}\nf\ng",
    "a read-only local variable": f"f() {{ local -r A=1; }}\nf\nA=2\n{U} -v 1 -p $A",
    "a variable of the script set in a function": (
        f"f() {{ declare -g A=2; }}\nA=1\nf\n{U} -v 1 -p $A"
    ),
    "a dollar at an end": f'{U} -v 1 -p a$ -x "b$"',
    "single quotes in double quotes": f"{U} -v 1 -p \"$'x'\"",
    "a backslash in single quotes": f"{U} -v 1 -p 'a\\\nb'",
    "operators in quotes": f"{U} -v 1 -p 'a;b&c|d' -x \"!e\"",
    "quotes in a variable": f"O='-p \"a b\"'\n{U} -v 1 $O",
    "a here-document behind tabs": f"cat <<-END\n\t{U} -v 9\n\tEND\n{U} -v 1 -p x",
    "several in the background of a group": f"{{ {U} -v 1 -p x & {U} -v 2 -p y & }}",
    "a default that is not used": f"K=1\n: ${{K:=8}}\n{U} -v 1 -p x -k $K",
    "a subshell that ends": f"( exit 1 )\n{U} -v 1 -p x",
    "a command quoted in part": 'u"car"p -i eth0 -v 1 -p x',
    "a command behind a backslash": "\\ucarp -i eth0 -v 2 -p x",
    "a no-break space": f"{U} -v 1 -p a\u00a0b",
    "the end of options": f"{U} -v 1 -p x -- -P",
}


@pytest.mark.parametrize("text", TRANSLATED.values(), ids=TRANSLATED.keys())
def test_what_is_translated_is_what_the_shell_starts(shells: Shells, text: str) -> None:
    found = read(text)
    assert found.lost == []
    assert sorted(found.arguments) == shells.arguments(text) != []


A = "1: $A is not known"
# Why none of these is known; each begins with the line.
NAMED = {
    "$(...)": (f"{U} -v 1 --pass=$(cat /etc/pw)", "1: $(cat ...) is a command substitution"),
    "$(...) in quotes": (f'{U} -v 1 --pass="$(cat /e)"', "1: $(cat ...) is a command substitution"),
    "`...`": (f"{U} -v 1 --pass=`cat /etc/pw`", "1: $(cat ...) is a command substitution"),
    "$(...) where several words may come": (
        f"{U} -v 1 -p x -x $(cat /etc/prefix) -P",
        "1: $(cat ...) is a command substitution",
    ),
    "<(...)": (f"{U} -v 1 -o <(cat x)", "1: <(cat ...) is a process substitution"),
    "$((...))": (f"{U} -v $((1 + 2)) -p x", "1: $((1 + 2)) is arithmetic"),
    "a default": (f"{U} -v 1 -p ${{A:-x}}", "1: ${A...} is not just the value of a variable"),
    "a cut": (f"A=ab\n{U} -v 1 -p ${{A#a}}", "2: ${A...} is not just the value of a variable"),
    "a length": (f"A=ab\n{U} -v 1 -p ${{#A}}", "2: ${A...} is not just the value of a variable"),
    "an array's element": (f"{U} -v 1 -p ${{A[0]}}", "1: ${A[...]} is an element of an array"),
    "an array": (f"A=(1 2)\n{U} -v 1 -p $A", "2: $A is not known: it is an array"),
    "a positional parameter": (
        f"{U} -v $1 -p x",
        "1: $1 is a parameter of the script or the shell",
    ),
    "all parameters": (f'{U} -v 1 "$@"', "1: $@ is a parameter of the script or the shell"),
    "the shell's own": (f"{U} -v 1 -p x$$", "1: a $ with a meaning that is not translated"),
    "the shell's own in quotes": (f'{U} -v 1 -p "x$$"', "1: $$ is a parameter of the script"),
    "a variable of the environment": (f"{U} -v 1 -p $A", f"{A}; give it its value"),
    "a localized string": (f'{U} -v 1 -p $"x"', '1: $"..." is translated into the language'),
    "a pattern of file names": (f"{U} -v 1 -p a*", "1: the password is a pattern of file names"),
    "a pattern in a variable": (f"A='*'\n{U} -v 1 -p $A", "2: $A is a pattern of file names"),
    "braces": (f"{U} -v 1 -p {{a,b}}", "1: the password has braces that bash"),
    "a home directory": (f"{U} -v 1 -p x -u ~/up", "1: ~/up begins with a user's home"),
    "a home directory assigned": (
        f"A=~/up\n{U} -v 1 -p x -u $A",
        "2: $A is not known: ~/up begins",
    ),
    "IFS": (f"IFS=:\nA=a:b\n{U} -v 1 -p $A", "3: IFS is set, which decides where words end"),
    "&& decides": (
        f'K=0\n[ "$H" = lb2 ] && K=100\n{U} -v 1 -p x -k $K',
        "3: $K is not known: a condition decides (line 2)",
    ),
    "|| decides": (f"K=0\nfalse || K=1\n{U} -v 1 -k $K", "3: $K is not known: a condition decides"),
    "if decides": (
        f'K=0\nif [ "$H" = lb2 ]; then\n  K=100\nfi\n{U} -v 1 -p x -k $K',
        "5: $K is not known: a condition decides (line 2)",
    ),
    "case decides": (
        f"case $H in lb1) K=0;; *) K=9;; esac\n{U} -v 1 -p x -k $K",
        "2: $K is not known: a condition decides (line 1)",
    ),
    "a condition runs it": (
        f'[ "$H" = lb2 ] && {U} -v 1 -p x',
        "1: a condition decides whether it runs (line 1)",
    ),
    "a condition runs one of two": (
        f'if [ "$H" = a ]; then {U} -v 1 -p x; else {U} -v 1 -p x -k 9; fi',
        "1: a condition decides whether it runs (line 1)",
    ),
    "a condition ends the script": (
        f'[ "$H" = lb2 ] || exit 0\n{U} -v 1 -p x',
        "2: a condition decides whether the script goes on (line 1)",
    ),
    "the script has ended": (f"exit 0\n{U} -v 1 -p x", "2: the script ends earlier, in line 1"),
    "exec ends the script": (
        f"exec true x\n{U} -v 1 -p x",
        "2: the script ends earlier, in line 1",
    ),
    "another case": (f'case "$1" in stop) {U} -v 1 -p x;; esac', "1: a condition decides"),
    "for": (f"for V in 1 2; do {U} -v $V -p x; done", "1: a loop decides how often"),
    "while": (f"while :; do {U} -v 1 -p x; sleep 1; done", "1: a loop decides how often"),
    "until": (f"until {U} -v 1 -p x; do :; done", "1: a loop decides how often"),
    "a for of numbers": (f"for ((i=0;i<3;i++)); do {U} -v $i -p x; done", "1: a loop decides"),
    "a loop's variable": (f"for A in 1; do :; done\n{U} -v 1 -p $A", "2: $A is not known: a loop"),
    "read": (f"read A </dev/null\n{U} -v 1 -p $A", "2: $A is not known: read sets it"),
    "printf -v": (f"A=1\nprintf -v A 5\n{U} -v 1 -p $A", "3: $A is not known: printf sets it"),
    "wait -p": (f"A=1\nwait -p A\n{U} -v 1 -p $A", "3: $A is not known: wait sets it"),
    "let": (f"A=1\nlet A=2\n{U} -v 1 -p $A", "3: $A is not known: let sets it"),
    "declare -i": (f"declare -i A\nA=1+1\n{U} -v 1 -p $A", "3: $A is not known: declare -i"),
    "typeset for sh": (f"#!/bin/sh\ntypeset -u A\nA=x\n{U} -v 1 -p $A", "4: $A is not known: not"),
    "a function's argument": (f"f() {{ {U} -v $1 -p x; }}\nf 3", "1: $1 is a parameter"),
    "a function that nothing calls": (
        f"f() {{ {U} -v 1 -p x; }}",
        "1: the function f is not called",
    ),
    "another file": (
        f"A=1\n. ./none\n{U} -v 1 -p $A",
        "3: $A is not known: another file may set it",
    ),
    "a substitution runs it": (f'X="$({U} -v 1 -p x)"', "1: its output is assigned to a variable"),
    "a text for a shell": (
        f"sh <<END\n{U} -v 1 -p x\nEND",
        "1: it is in a text that another shell",
    ),
    "a text piped to a shell": (f"cat <<END | sh\n{U} -v 1 -p x\nEND", "1: it is in a text that"),
    "a program that is not known": (f"ssh lb2 {U} -v 1 -p x", "1: ssh runs it, in its own way"),
    "a program that gets one text": (f"su -c '{U} -v 1 -p x'", "1: su runs it, in its own way"),
    "trap": (f"trap '{U} -v 1 -p x' EXIT", "1: trap runs it, in its own way"),
    "eval of what is not known": (f'eval "{U} -v 1 -p $A"', "1: eval runs what is unknown here"),
    "a command that is not known": (
        "$(which ucarp) -i e -v 1 -p x",
        "1: $(which ...) is a command",
    ),
    "one of two programs": (
        "if [ -x /a ]; then D=/a/ucarp; else D=/b/ucarp; fi\n$D -i eth0 -v 1 -p x",
        "2: $D is not known: a condition decides (line 1)",
    ),
    "a program of the environment": (
        "$DAEMON -i eth0 -v 1 -p x -a 10.0.0.9",
        "1: $DAEMON is not known; give it its value",
    ),
    "a quote that does not close": (f'{U} -v 1 -p "x', "1: line 1 cannot be read as a shell would"),
    "a line that no shell reads": (f"if\n{U} -v 1 -p x", "2: line 1 cannot be read"),
    "a carriage return": (f"{U} -v 1 -p x\r\n", "1: its line contains a carriage return"),
    "NUL": (f"{U} -v 1 -p x\0", "1: it contains NUL bytes"),
    "a quoted blank behind a quote": (f"{U} -v 1 -p 'x'\\ y", "1: it is not clear where"),
    "another language": (f"#!/usr/bin/env fish\n{U} -v 1 -p x", "2: it is written for fish"),
    "bash's quotes for sh": (
        f"#!/bin/sh\n{U} -v 1 -p $'x'",
        "2: not every /bin/sh reads $'...'",
    ),
    "arithmetic within a word": (
        f"A=1\n: $((A=5))\n{U} -v $A -p x",
        "3: $A is not known: arithmetic sets it",
    ),
    "an old form of arithmetic": (f"{U} -v $[1+1] -p x", "1: $[1+1] is arithmetic"),
    "a reference": (
        f"B=1\ndeclare -n A=B\nA=2\n{U} -v 1 -p x -k $B",
        "4: $B is not known: A may refer to it",
    ),
    "a reference to what is not known": (
        f"B=1\nN=B\ndeclare -n A=$N\nA=2\n{U} -v 1 -k $B",
        "5: $B is not known: A may refer to it",
    ),
    "a read-only variable set again": (
        f"readonly A=1\nA=2\n{U} -v 1 -p $A",
        "3: $A is not known: it is read-only",
    ),
    "a variable of the script behind a local one": (
        f"f() {{ local A=3; declare -g A=2; }}\nA=1\nf\n{U} -v 2 -p $A",
        "4: $A is not known: declare -g sets it",
    ),
    "a script that is only read": (f"set -n\n{U} -v 1 -p x", "2: the script ends earlier"),
    "a script that is not run": (f"set -o noexec\n{U} -v 1", "2: the script ends earlier"),
    "an assignment for eval": (
        f"A=0\nA=1 eval '{U} -v 1 -p $A'",
        "2: $A is not known: it is assigned for eval",
    ),
    "an assignment for a function": (
        f"f() {{ {U} -v 1 -p $A; }}\nA=0\nA=1 f",
        "1: $A is not known: it is assigned for f",
    ),
    "a trap before each command": (
        f"trap 'A=9' DEBUG\nA=1\n{U} -v 1 -p $A",
        "3: trap changes what follows (line 1)",
    ),
    "a pipe's last command in the script itself": (
        f"shopt -s lastpipe\nA=1\n: | A=2\n{U} -v 1 -p $A",
        "4: shopt changes what follows (line 1)",
    ),
    "a function that is gone": (
        f"f() {{ {U} -v 1 -p x; }}\nunset -f f\nf",
        "1: the function f is not called",
    ),
    "an alias": (f"alias u='{U}'\nu -v 1 -p x", "1: alias runs it, in its own way"),
    "select": (f"select A in 1 2; do {U} -v $A -p x; done", "1: a loop decides how often"),
    "coproc": (f"coproc {U} -v 1 -p x", "1: coproc runs it, in its own way"),
    "xargs": (f"echo -v 1 -p x | xargs {U}", "1: xargs runs it, in its own way"),
    "a replacement": (
        f"A=ab\n{U} -v 1 -p ${{A/a/b}}",
        "2: ${A...} is not just the value of a variable",
    ),
    "an indirect value": (
        f"A=B\nB=c\n{U} -v 1 -p ${{!A}}",
        "3: ${A...} is not just the value of a variable",
    ),
    "an array's every element": (
        f'A=(-v 1 -p x)\n{U} "${{A[@]}}"',
        "2: ${A[...]} is an element of an array",
    ),
    "a here-string for a shell": (f"bash <<<'{U} -v 1 -p x'", "1: it is in a text that another"),
    "a home directory behind a name": (f"{U} -v 1 -x foo=~/a", "1: foo... begins with a user's"),
    "parameters set anew": (f"set -- 3\n{U} -v $1 -p x", "2: $1 is a parameter"),
    "bash's forms for sh": (
        f"#!/bin/sh\nA=(1)\n{U} -v 1 -p x",
        "3: line 2 is not read the same by every",
    ),
}


@pytest.mark.parametrize(("text", "why"), NAMED.values(), ids=NAMED.keys())
def test_what_is_not_known_is_named(text: str, why: str) -> None:
    found = read(text)
    assert found.arguments == []
    assert found.lost
    assert found.lost[0].startswith(why), found.lost


def test_an_error_after_it_leaves_a_line_translated_that_a_shell_has_run(shells: Shells) -> None:
    text = f"{U} -v 1 -p x\necho '\n{U} -v 2 -p y\n"
    found = read(text)
    assert found.arguments == shells.arguments(text) != []
    [lost] = found.lost
    assert lost.endswith("cannot be read as a shell would: everything from here on is skipped")


def test_a_file_that_a_script_reads_is_read(tmp_path: Path) -> None:
    (tmp_path / "defaults").write_text('SKEW=7\nPASS="a b"\n')
    text = f'SKEW=0\n. {tmp_path}/defaults\n{U} -v 1 -p "$PASS" -k $SKEW'
    [arguments] = read(text).arguments
    assert arguments[-4:] == ["-p", "a b", "-k", "7"]
    missing = read(text.replace("/defaults", "/nowhere"))
    assert missing.arguments == []
    assert missing.remarks[0].startswith(f"2: {tmp_path}/nowhere is not read")


def test_an_end_by_an_error_is_a_remark() -> None:
    found = read(f'[ "$(id -u)" = 0 ] || exit 1\n{U} -v 1 -p x')
    assert len(found.arguments) == 1
    assert found.remarks == ["1: line 1 may end the script before it starts ucarp"]


def test_a_start_repeated_by_a_restart_is_one() -> None:
    text = f'start() {{ {U} -v 1 -p x; }}\ncase "$1" in start) start;; restart) start;; esac'
    found = read(text)
    assert (len(found.arguments), found.lost) == (1, [])


def test_relative_paths_after_cd_start_from_there() -> None:
    [first, second, third] = [
        each.directory
        for each in started(
            f"{U} -v 1\ncd /etc/ucarp\n{U} -v 2\ncd $X\n{U} -v 3".encode(), Path("/opt/run")
        )
        if isinstance(each, Started)
    ]
    assert (first, second, third) == (Path("/opt"), Path("/etc/ucarp"), None)


START_STOP = "start-stop-daemon --start --quiet --pidfile /run/x --name ucarp"


@pytest.mark.parametrize(
    ("command", "count"),
    [
        (f"{START_STOP} --exec /usr/sbin/ucarp -- -i eth0 -v 1 -p x", 1),
        (f"{START_STOP} --exec=/usr/sbin/ucarp -- -i eth0 -v 1 -p x", 1),
        (f"{START_STOP} -a /usr/sbin/ucarp -x /bin/true -- -i eth0 -v 1 -p x", 1),
        ("start-stop-daemon -S -b -qx /usr/sbin/ucarp -- -i eth0 -v 1 -p x", 1),
        ("start-stop-daemon --stop --exec /usr/sbin/ucarp -- -i eth0", 0),
        ("start-stop-daemon -K -x /usr/sbin/ucarp", 0),
        ("daemon --pidfile=/run/x /usr/sbin/ucarp -i eth0 -v 1 -p x", 1),
        ("killall ucarp; pidof ucarp; which ucarp; apt install ucarp", 0),
    ],
)
def test_what_starts_daemons(command: str, count: int) -> None:
    found = read(command)
    assert (len(found.arguments), found.lost) == (count, [])
    assert all(each == ["-i", "eth0", "-v", "1", "-p", "x"] for each in found.arguments)


def test_daemon_of_red_hat_reads_its_words_again() -> None:
    found = read("daemon /usr/sbin/ucarp -i eth0 -v 1 -p 'a b'")
    assert (found.arguments, found.lost) == ([], ["1: daemon parses its words again"])


# Words and statements put together at random.

PIECES = [
    *("a", "b1", '"x y"', "'s t'", "\\$", '\\"', "\\'", '"\\$"', '"\\\\"', "$A", '"$A"', "${B}"),
    *('"${B}"', "$E", '"$E"', "#", "=", "%", "@", "~", "{", "}", ",", "..", "*", "?", "[", "]"),
    *(
        "!",
        "^",
        ":",
        "/",
        "\\\n",
        "\\ ",
        "\\\\",
        '"',
        "'",
        "$",
        "`",
        '""',
        "''",
        '"#"',
        '"`"',
        "\t",
    ),
    *("  ", ";", "&", "|", "(", ")", "\n", "$(echo q)", "`echo q`", "$((1+1))", "${A:-z}", "$1"),
    *('$"l"', "&&", "||", "#c", "\r", "$$", '"$A x $B"', '" $A"', 'x"$A"y', "\\a", "é"),
]
STATEMENTS = [
    *("A=1", 'A="p q"', "A='*'", "A=", "B=${A}x", 'B="$A $A"', "A+=2", "unset A", "export A B"),
    *("A=$(echo 9)", "A=a:b", "if true; then A=2; fi", "if false; then A=3; else B=4; fi"),
    *('[ -n "$A" ] && A=7', "false || B=8", "for A in 1 2; do :; done", "( A=s )", "{ A=g; }"),
    *("while read A; do :; done <<X\n5\nX", 'f() { A=ff; ucarp -f "$A" "$1"; }', "f 1", "f"),
    *("g() { local A=loc; B=$A; }", "g", "case $A in 1) B=one;; *) B=many;; esac", "A=p | cat"),
    *("A=bg &", "read A </dev/null", "eval A=ev", 'eval "ucarp -e $A"', "[ -x /bin/sh ] || exit 1"),
    *("cat <<X\nucarp -h1 $A\nX", "cat <<'X' | sh\nucarp -h2\nX", 'sh -c "ucarp -s $A"', "exit 0"),
    *("sh -c 'ucarp -s \"$A\"'", "echo ucarp -n $A", "# ucarp -c", "A=(1 2)", "A[1]=3", "let A=6"),
    *(
        "printf -v A 5",
        "((A=7))",
        'trap "ucarp -t" EXIT',
        "exec ucarp -x1",
        'env A=5 ucarp -v "$A"',
    ),
    *("A=9 ucarp -v $A", "nohup ucarp -N $A", "if ucarp -I; then :; fi", "ucarp -L && ucarp -R"),
    *("ucarp -P | cat", "ucarp -BG &", "ucarp -a1; ucarp -a2", "$(echo ucarp) -D1", "A=x\\\ny"),
    *('D="ucarp -D3"; $D -k', ">/dev/null ucarp -G1", "ucarp -G2 >/dev/null 2>&1 -G3"),
    *("ucarp -H <<X -z\nbody\nX", "(ucarp -SS)", 'case "$1" in start) ucarp -C1;; esac', "A=~/x"),
    *("A=$(ucarp -sub)", "ucarp -q $(ucarp -in)", "declare A=dd", "A='a\nb'", 'ucarp -Y "$A"$B'),
]


def generated(seed: int) -> str:
    choose = random.Random(seed)
    lines = [choose.choice(STATEMENTS) for _ in range(choose.randint(0, 5))]
    words = ("".join(choose.choices(PIECES, k=choose.randint(1, 4))) for _ in range(2))
    lines.append("ucarp -x " + " ".join(words))
    lines += [choose.choice(STATEMENTS) for _ in range(choose.randint(0, 2))]
    return "\n".join(lines)


@pytest.mark.parametrize("block", range(4))
def test_no_script_is_translated_into_what_its_shell_does_not_start(
    shells: Shells, block: int
) -> None:
    known = 0
    for seed in range(100 * block, 100 * block + 100):
        text = generated(seed)
        found = read(text)
        real = shells.arguments(text)
        assert [each for each in found.arguments if each not in real] == [], (seed, text)
        if not found.lost:
            assert sorted(found.arguments) == [each for each in real if each[0][:1] == "-"], text
            known += 1
    assert known > 0  # not all of them were given up


@pytest.mark.skipif(shutil.which("dash") is None, reason="dash is another /bin/sh")
@pytest.mark.parametrize("block", range(2))
def test_what_is_translated_for_sh_is_read_alike_by_dash_and_bash(
    shells: Shells, block: int
) -> None:
    for seed in range(1000 + 60 * block, 1060 + 60 * block):
        text = "#!/bin/sh\n" + generated(seed)
        found = read(text)
        for shell in ("dash", "bash"):
            real = shells.arguments(text, shell)
            assert [each for each in found.arguments if each not in real] == [], (seed, text)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text(st.sampled_from("ucarp -pvi1x$\"'`\\(){}[]<>|&;#\n\t=*?!~%\r\x00é") | st.characters())
)
def test_whatever_is_read_ends_and_raises_nothing(text: str) -> None:
    for data in (text, f"{U} -v 1 -p x\n{text}", f"{U} -v 1 {text}"):
        list(started(data.encode(errors="surrogatepass"), Path("/x")))


def test_what_is_nested_too_deeply_is_named() -> None:
    found = read("( " * 2000 + f"{U} -v 1 -p x" + " )" * 2000)
    assert (found.arguments, found.lost) == ([], ["1: it is nested too deeply"])


@pytest.mark.parametrize("character", ["\U000c0041", "\U0001f600", "é", "\u2028"])
def test_a_character_beyond_the_parsers_tables_is_one_of_a_word(character: str) -> None:
    found = read(f"echo {{{character}\nA=1\n{U} -v 1 -p $A{character} -x '{{{character}'")
    assert [each[-3:] for each in found.arguments] == [[f"1{character}", "-x", f"{{{character}"]]


def test_a_script_of_thousands_of_lines_is_read_in_seconds(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("\n".join(f"{U} -v {n % 255 + 1} -i e{n // 255} -p x" for n in range(3_000)))
    found = import_files([script], running=False)
    assert (len(found.tables), found.lost) == (3_000, [])


# As Debian's skeleton of init scripts has it.
INIT_SCRIPT = """#!/bin/sh
NAME=ucarp
DAEMON=/usr/sbin/$NAME
SCRIPT=/etc/init.d/$NAME
VIP=10.0.0.13
[ -x "$DAEMON" ] || exit 0
[ -r DIRECTORY/$NAME ] && . DIRECTORY/$NAME
if [ -f DIRECTORY/none ]; then
\t. DIRECTORY/none
fi
. /lib/lsb/init-functions
ARGUMENTS="-i eth0 -s 10.0.0.1 -v 3 -a $VIP -B -z"
do_start()
{
\tstart-stop-daemon --start --quiet --exec $DAEMON --test > /dev/null \\
\t\t|| return 1
\tstart-stop-daemon --start --quiet --exec $DAEMON -- \\
\t\t$ARGUMENTS -p "$PASS" \\
\t\t|| return 2
}
do_stop()
{
\tstart-stop-daemon --stop --quiet --retry=TERM/30/KILL/5 --name $NAME
\tRETVAL="$?"
\t[ "$RETVAL" = 2 ] && return 2
\treturn "$RETVAL"
}
case "$1" in
  start)
\t[ "$VERBOSE" != no ] && log_daemon_msg "Starting" "$NAME"
\tdo_start
\tcase "$?" in 0|1) log_end_msg 0 ;; 2) log_end_msg 1 ;; esac
\t;;
  stop) do_stop ;;
  restart|force-reload)
\tdo_stop
\tcase "$?" in 0|1) do_start ;; *) log_end_msg 1 ;; esac
\t;;
  *) echo "Usage: $SCRIPT {start|stop|restart|force-reload}" >&2; exit 3 ;;
esac
"""


def test_an_init_script_starts_what_its_start_does(tmp_path: Path) -> None:
    (tmp_path / "ucarp").write_text("PASS='a b'\n")
    found = read(INIT_SCRIPT.replace("DIRECTORY", str(tmp_path)))
    words = ["-i", "eth0", "-s", "10.0.0.1", "-v", "3", "-a", "10.0.0.13", "-B", "-z", "-p"]
    assert (found.arguments, found.lost) == ([[*words, "a b"]], [])
    assert found.remarks == [f"9: {tmp_path}/none does not exist here and is skipped"]
