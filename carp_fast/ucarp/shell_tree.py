"""Queries on the syntax tree of a script, made with tree-sitter's grammar of bash.

Where the parts of a statement are, what it may set, and the usual outcome of a condition. Must not
know values of variables, nor ucarp's options.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from carp_fast.ucarp.shell_parser import Node

NAME = re.compile(r"[A-Za-z_]\w*")
CONTINUATION = b"\\\n"
ENDING = (b"", b"\n", b";", b"&", b"|", b"<", b">", b")")  # what may follow a word
# Commands that set variables, with the option that makes them; "": without any.
READERS = {
    **dict.fromkeys(("read", "mapfile", "readarray", "getopts", "let"), frozenset({""})),
    "printf": frozenset({"-v"}),
    "wait": frozenset({"-p"}),
}
# Commands that run what they are given in the script itself, or keep assignments in some shells.
SPECIAL = frozenset({".", ":", "eval", "exec", "export", "readonly", "set", "shift", "source"})
SPECIAL |= {"times", "trap", "unset"}
# Words with which trap and shopt have later commands do something else than they say.
AT_ANY_TIME = frozenset({"DEBUG", "ERR", "RETURN", "lastpipe"})
REDIRECT_PARTS = frozenset(
    {"file_descriptor", "heredoc_start", "heredoc_body", "heredoc_end", "pipeline", "list"}
    | {"heredoc_content"}
)
UNREADABLE = "cannot be read as a shell would"
CASE_ENDS = frozenset({";;", ";&", ";;&"})
RESERVED = frozenset({"}", "then", "do", "done", "fi", "esac", "elif", "else", "in", "if", "for"})
NO_WORD: list[Node] = []  # used where the words are unclear
# Forms of bash that are syntax errors in other shells, or have another meaning there.
NOT_PORTABLE = frozenset(
    {"array", "process_substitution", "herestring_redirect", "c_style_for_statement", "select"}
    | {"function", "&>", "&>>", "<&-", "|&", "subscript"}
)
RUNNING_CHECKS = frozenset({"pidof", "pgrep"})
EXISTENCE_CHECKS = frozenset({"which", "type", "hash", "command", "true", ":"})
FILE_TESTS = frozenset({"-x", "-f", "-e", "-r", "-s"})
STARTS = frozenset({"start", '"start"', "'start'", "xstart", '"xstart"'})


def source(node: Node) -> str:
    """The bytes of a node as text; bytes that are not UTF-8 become surrogates."""
    return node.text.decode(errors="surrogateescape")


def adjoin(before: Node, after: Node) -> bool:
    """Whether only a backslash at the end of a line, or nothing, is between two nodes."""
    return not before.data[before.end : after.begin].replace(CONTINUATION, b"")


def ends_clearly(node: Node) -> bool:
    """Whether a word or command ends where the parser ends it.

    The parser treats a quoted blank as a blank, and the end of a line within a word as the word's
    end.
    """
    data, at, blank = node.data, node.end, False
    while data[at : at + 2] == CONTINUATION or data[at : at + 1] in (b" ", b"\t"):
        blank = blank or data[at : at + 1] != b"\\"
        at += 1 if data[at : at + 1] != b"\\" else 2
    after = data[at : at + 1]
    if after == b"\\":
        return False
    return blank or at == node.end or after in ENDING


def operands(node: Node) -> tuple[Node, Node, Node]:
    """The left side, the operator and the right side of a list."""
    left, operator, right = (child for child in node.children if child.type != "comment")
    return left, operator, right


def is_usual(node: Node, wanted: bool, *, plain: bool) -> bool:
    """Whether a condition is `wanted` if ucarp is installed and is to be started.

    `plain`: any command that is not a test is assumed to succeed.
    """
    if node.type == "redirected_statement":
        return is_usual(node.children[0], wanted, plain=plain)
    if node.type == "negated_command":
        return is_usual(node.named_children[0], not wanted, plain=False)
    if node.type == "list":
        left, operator, right = operands(node)
        both = [is_usual(each, wanted, plain=plain) for each in (left, right)]
        return all(both) if (operator.type == "&&") == wanted else False
    if node.type == "pipeline":
        return plain and is_usual(node.named_children[-1], wanted, plain=plain)
    words = source(node).strip("[] ").split()
    if node.type == "test_command" or words[:1] == ["test"]:
        words = words[1:] if words[:1] == ["test"] else words
        if words[:1] == ["!"]:
            words, wanted = words[1:], not wanted
        exists = len(words) == 2 and words[0] in FILE_TESTS
        starts = len(words) == 3 and words[1] in {"=", "=="} and words[2] in STARTS
        return wanted and (exists or starts)
    if node.type != "command":
        return plain
    if words[0].rpartition("/")[2] in RUNNING_CHECKS:
        return not wanted
    if words[0] in EXISTENCE_CHECKS:
        return wanted
    return plain and words[0] not in {"[", "[[", "grep", "false", "let", "((", "mountpoint"}


class Fault(NamedTuple):
    """A text that shells refuse or read differently; `line` counts from 0.

    `begin`: where the statement begins that contains it.
    """

    line: int
    begin: int
    why: str


def reads_a_file(node: Node) -> bool:
    """Whether it is `. FILE`."""
    return node.type == "command" and source(node).split(None, 1)[0] in {".", "source"}


def first_fault(root: Node, portable: bool) -> Fault | None:
    """The first fault of a text; `portable`: it is not known which /bin/sh reads it."""
    lines = root.data.split(b"\n")
    pending = [root]
    while pending:
        node = pending.pop()
        why = _fault_of(node, portable)
        if why and not any(child.has_error for child in node.children):
            top = node
            while top.parent is not None and top.parent.parent is not None:
                top = top.parent
            begin = 0 if root.error else top.line
            while begin and lines[begin - 1].endswith(b"\\"):
                begin -= 1
            return Fault(node.line, begin, why)
        pending += reversed(node.children)
    return None


def _parent_is(node: Node, kind: str) -> bool:
    return node.parent is not None and node.parent.type == kind


def _fault_of(node: Node, portable: bool) -> str:
    kind = node.type
    if node.error:
        return UNREADABLE
    if kind == "file_redirect" and b"\n" in _between(node):
        return UNREADABLE
    if kind == "command_name" and source(node) in RESERVED:
        return UNREADABLE
    if kind == "negated_command" and node.sibling(-1) is not None and _parent_is(node, "pipeline"):
        return UNREADABLE
    if kind in CASE_ENDS and not _parent_is(node, "case_item"):
        return UNREADABLE
    if portable and (
        kind in NOT_PORTABLE or (kind == "compound_statement" and source(node)[:1] == "(")
    ):
        return "is not read the same by every /bin/sh"
    return ""


def arguments_behind(redirect: Node) -> list[Node]:
    """Words of the command that follow a redirection, to which the parser adds them."""
    words = [c for c in redirect.named_children if c.type not in REDIRECT_PARTS]
    if redirect.type == "heredoc_redirect":
        return words
    while len(words) > 1 and adjoin(words[0], words[1]):
        words = words[1:]  # the target of the redirection
    return words[1:]


def word_groups(command: Node, more: list[Node]) -> list[list[Node]]:
    """The nodes of each word of a command, those in `more` last.

    A word has several if a line ends within it, in a backslash.
    """
    groups: list[list[Node]] = []
    before: Node | None = None
    for child in [*command.children, *more]:
        between = b" "
        redirected = child.type.endswith("_redirect")
        if before is not None and before.parent == child.parent:
            between = command.data[before.end : child.begin].replace(CONTINUATION, b"")
            if before.type.endswith("_redirect") and not between and not redirected:
                groups.append(NO_WORD)
        before = child
        if redirected:
            groups += [[each] for each in arguments_behind(child)]
        if between.strip(b" \t"):  # to the parser a quoted blank after a quote is a blank
            groups.append(NO_WORD)
        if redirected or child.type == "variable_assignment":
            continue
        part = child.children[0] if child.type == "command_name" else child
        if groups and not between:
            groups[-1] = [*groups[-1], part]
        else:
            groups.append([part])
    if before is not None and not ends_clearly(before):
        groups.append(NO_WORD)
    return groups


def _between(redirect: Node) -> bytes:
    """The bytes between the parts of a redirection."""
    parts = pairwise(redirect.children)
    between = b"".join(redirect.data[one.end : other.begin] for one, other in parts)
    return between.replace(CONTINUATION, b"")


def condition_and_body(part: Node) -> tuple[list[Node], list[Node]]:
    """The statements before and after `then`."""
    conditions: list[Node] = []
    body: list[Node] = []
    into = conditions
    for child in part.children:
        if child.type == "then":
            into = body
        elif child.named and child.type not in {"elif_clause", "else_clause"}:
            into.append(child)
    return conditions, body


def is_start(item: Node) -> bool:
    """Whether an item of `case` is for "start"."""
    patterns = []
    for child in item.children:
        if child.type == ")":
            break
        patterns.append(source(child))
    return not STARTS.isdisjoint(patterns)


def case_body(item: Node) -> list[Node]:
    behind = False
    body = []
    for child in item.children:
        if behind and child.named:
            body.append(child)
        behind = behind or child.type == ")"
    return body


def names_in(node: Node) -> list[str]:
    """Every variable that a node may set, and some that it only reads."""
    names: list[str] = []
    pending = [node]
    while pending:
        each = pending.pop()
        if each.type == "variable_assignment":
            names.append(source(each.children[0]).partition("[")[0])
        elif each.type == "command" and source(each.children[0]) in READERS:
            names += [source(child) for child in each.named_children]
        elif each.type in {"for_statement", "unary_expression", "postfix_expression"} or (
            each.type == "binary_expression" and "=" in {c.type[-1:] for c in each.children}
        ):
            names += [source(c) for c in each.named_children if c.type in {"variable_name", "word"}]
        pending += each.children
    return [name for name in names if NAME.fullmatch(name)]


def set_by(command: str, words: Sequence[object]) -> list[str]:
    """The variables that one of READERS may set, given these words."""
    texts = [word for word in words if isinstance(word, str)]
    if not READERS[command].intersection(("", *texts)):
        return []
    return [begin[0] for begin in map(NAME.match, texts) if begin is not None]
