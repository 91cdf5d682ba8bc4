"""The values of a shell's words: without quotes, with variables filled in if they are known.

Takes nodes of tree-sitter's grammar of bash, which finds where a word begins and ends. A word that
depends on more than known variables (a substitution, a pattern of file names, an array) raises
Unclear. Must not know statements, commands, files or ucarp; runs no shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from carp_fast.errors import CarpFastError
from carp_fast.ucarp.shell_parser import Node
from carp_fast.ucarp.shell_tree import NAME, adjoin, source

BLANKS = re.compile("[ \t\n]+")  # of the default $IFS
PATTERN = re.compile(r"[*?\[]")  # of file names
BRACES = re.compile(r"\{[^{}]*(?:,|\.\.)[^{}]*\}")
TILDE = re.compile(r"(?:[A-Za-z_]\w*=)?~")
ASSIGNED_TILDE = re.compile(r"(?:^|:)~")
SPECIAL = re.compile(
    r"[ \t\r\n;&|<>()`'\"]|\$."
)  # in an unquoted part, where the parser seldom leaves it
EXPANDS = re.compile(r"`|\$[\w@*#?$!({\[-]")  # in double quotes
COMPOUND = "concatenation"  # the parser's name for a word of several parts
QUOTED = "q"  # replaces a quoted character where only unquoted ones have a meaning
IN_DOUBLE_QUOTES = '$`"\\'  # characters that a backslash quotes

ANSI = re.compile(
    r"\\(?:([abeEfnrtv\\'\"?])|x([0-9a-fA-F]{1,2})|([0-7]{1,3})"
    r"|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|(.?))",
    re.DOTALL,
)
ANSI_LETTERS = {
    **{"a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r"},
    **{"t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"', "?": "?"},
}


class Unclear(CarpFastError):
    """Raised when the value of a word is unknown; says why. `candidates`: its possible values."""

    def __init__(self, why: str, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(why)
        self.candidates = candidates


class Value(NamedTuple):
    """What a variable holds: `text`, or None if unknown; then `why`, and its possible values."""

    text: str | None
    why: str = ""
    candidates: tuple[str, ...] = ()

    @property
    def may_be(self) -> tuple[str, ...]:
        return self.candidates if self.text is None else (self.text,)


class Piece(NamedTuple):
    """A part of a word. `split`: an unquoted expansion, which ends words at its blanks."""

    text: str
    quoted: bool
    split: bool = False


class Words:
    """Resolves words with the variables that are known when they are reached.

    `portable`: for /bin/sh, not all implementations of which support $'...'.
    """

    def __init__(self, variables: Mapping[str, Value], portable: bool) -> None:
        self.variables = variables
        self.portable = portable

    def fields(self, nodes: list[Node]) -> list[str]:
        """The words of adjoining nodes: one; with unquoted variables none or more.

        Raises Unclear.
        """
        pieces = [piece for node in nodes for piece in self._pieces(node)]
        _refuse_dollars(nodes)
        unquoted = _unquoted(pieces)
        if PATTERN.search(unquoted):
            raise Unclear(f"{shown(nodes[0])} is a pattern of file names")
        if BRACES.search(unquoted):
            raise Unclear(f"{shown(nodes[0])} has braces that bash expands")
        if TILDE.match(unquoted):
            raise Unclear(f"{shown(nodes[0])} begins with a user's home directory")
        return self._split(pieces)

    def text(self, node: Node | None) -> str:
        """The value of an assignment, which is not split. Raises Unclear."""
        if node is None:
            return ""
        _refuse_dollars([node])
        pieces = list(self._pieces(node))
        if ASSIGNED_TILDE.search(_unquoted(pieces)):
            raise Unclear(f"{shown(node)} begins with a user's home directory")
        return "".join(piece.text for piece in pieces)

    def _split(self, pieces: list[Piece]) -> list[str]:
        fields: list[str] = []
        current: str | None = None  # the current word; None between two words
        for piece in pieces:
            if not piece.split:
                if piece.text or piece.quoted:
                    current = (current or "") + piece.text
                continue
            if "IFS" in self.variables:
                raise Unclear("IFS is set, which decides where words end")
            first, *others = BLANKS.split(piece.text)
            if first:
                current = (current or "") + first
            for other in others:
                if current is not None:
                    fields.append(current)
                current = other or None
        if current is not None:
            fields.append(current)
        return fields

    def _pieces(self, node: Node) -> Iterator[Piece]:
        kind = node.type
        if kind in {"word", "number", "variable_name"} and not len(node.named_children):
            yield from _of_word(source(node))
        elif kind == "raw_string":
            yield Piece(source(node)[1:-1], quoted=True)
        elif kind == "ansi_c_string":
            if self.portable:
                raise Unclear("not every /bin/sh reads $'...' the same")
            yield Piece(_of_ansi(source(node)[2:-1]), quoted=True)
        elif kind == "string":
            yield from self._of_string(node)
        elif kind == COMPOUND:
            for before, child in zip([None, *node.children], node.children, strict=False):
                if before is not None and not adjoin(before, child):
                    raise Unclear(f"{shown(node)} is not a single word")
                yield from self._pieces(child)
        elif kind in {"simple_expansion", "expansion"}:
            if source(node)[:1].isspace():
                raise Unclear("it is not clear where its words end")
            yield Piece(self._value(node), quoted=False, split=True)
        elif not node.named and kind in {"$", "{", "}", "=", "-", "!", ":", ",", "%", "^", "]"}:
            yield Piece(kind, quoted=False)
        else:
            raise Unclear(_why_not(node))

    def _of_string(self, node: Node) -> Iterator[Piece]:
        """The parts of "..."; text between the parser's nodes counts as well."""
        base, at = node.begin, node.begin + 1
        yield Piece("", quoted=True)
        for child in node.children:
            if child.named and child.type != "string_content":
                # The parser includes blanks before an expansion in it.
                blanks = len(source(child)) - len(source(child).lstrip())
                text = node.text[at - base : child.begin - base + blanks]
                yield Piece(_of_double_quoted(text), quoted=True)
                yield Piece(self._value(child), quoted=True)
                at = child.end
        yield Piece(_of_double_quoted(node.text[at - base : -1]), quoted=True)

    def _value(self, node: Node) -> str:
        """The value of an expansion. Raises Unclear."""
        if node.type not in {"simple_expansion", "expansion"}:
            raise Unclear(_why_not(node))
        name = node.named_children[0] if len(node.named_children) == 1 else None
        plain = name is not None and len(node.children) == (2 if node.type[0] == "s" else 3)
        if name is None or not plain or name.type not in {"variable_name", "special_variable_name"}:
            raise Unclear(_why_not(node))
        word = source(name)
        if source(node).strip() not in (f"${word}", f"${{{word}}}"):
            raise Unclear(_why_not(node))
        if not NAME.fullmatch(word):
            raise Unclear(f"${word} is a parameter of the script or the shell")
        value = self.variables.get(word)
        if value is None:
            raise Unclear(f"${word} is not known; give it its value")
        if value.text is None:
            raise Unclear(f"${word} is not known: {value.why}", value.candidates)
        return value.text


def _refuse_dollars(nodes: list[Node]) -> None:
    """Refuses a `$` without a node, which is literal only at the end. Raises Unclear."""
    parts = [p for node in nodes for p in (node.children if node.type == COMPOUND else [node])]
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        if part.type != "$" or (after is None and source(part) == "$"):
            continue
        if after is not None and source(after).startswith('"'):
            raise Unclear('$"..." is translated into the language of the user')
        raise Unclear("a $ with a meaning that is not translated")


def _unquoted(pieces: list[Piece]) -> str:
    return "".join(QUOTED * max(1, len(p.text)) if p.quoted else p.text for p in pieces)


def _of_word(text: str) -> Iterator[Piece]:
    """An unquoted word: a backslash quotes the next character, and removes a line end."""
    at = 0
    while at < len(text):
        begin = at
        at = text.find("\\", begin)
        if at < 0:
            yield Piece(_plain(text[begin:]), quoted=False)
            return
        if at > begin:
            yield Piece(_plain(text[begin:at]), quoted=False)
        escaped = text[at + 1 : at + 2]
        if escaped != "\n":
            yield Piece(escaped or "\\", quoted=True)
        at += 2


def _plain(text: str) -> str:
    """Unquoted text of a word. Raises Unclear for characters with a meaning to a shell."""
    if SPECIAL.search(text):
        raise Unclear("it is not clear where its words end")
    return text


def _of_double_quoted(data: bytes) -> str:
    """Text within "..." that must not contain an expansion. Raises Unclear."""
    text = data.decode(errors="surrogateescape")
    return re.sub(r"\\([$`\"\\\n])", lambda match: "" if match[1] == "\n" else match[1], text)


def _of_ansi(text: str) -> str:
    """The value of $'...'; bytes that are not UTF-8 become surrogates. Raises Unclear."""
    made = bytearray()
    end = 0
    for match in ANSI.finditer(text):
        made += text[end : match.start()].encode(errors="surrogateescape")
        end = match.end()
        letter, hexadecimal, octal, short, long, other = match.groups()
        if letter:
            made += ANSI_LETTERS[letter].encode()
        elif hexadecimal or octal:
            made.append(int(hexadecimal or octal, 16 if hexadecimal else 8) & 0xFF)
        elif (short or long) and int(short or long, 16) < 0x11_0000:
            made += chr(int(short or long, 16)).encode(errors="surrogatepass")
        elif other == "c" or not other or short or long:
            raise Unclear("$'...' with a control character or half an escape")
        else:
            made += b"\\" + other.encode(errors="surrogateescape")
    made += text[end:].encode(errors="surrogateescape")
    if 0 in made:
        raise Unclear("$'...' with a NUL, where the word ends")
    return made.decode(errors="surrogateescape")


def shown(node: Node) -> str:
    """A word for a message: only the beginning of what may hold a password."""
    text = source(node)
    return text if len(text) <= 24 and "=" not in text else f"{text[:12].split('=')[0]}..."


KINDS = {
    "command_substitution": "is a command substitution",
    "process_substitution": "is a process substitution",
    "arithmetic_expansion": "is arithmetic",
    "subscript": "is an element of an array",
    "brace_expression": "has braces that bash expands",
    "extglob_pattern": "is a pattern",
    "regex": "is a pattern",
    "translated_string": "is translated into the language of the user",
}


def _why_not(node: Node) -> str:
    kind = node.type
    if kind in {"simple_expansion", "expansion"}:
        inner = next((child for child in node.named_children), None)
        if inner is not None and inner.type == "subscript":
            return f"${{{source(inner).partition('[')[0]}[...]}} is an element of an array"
        name = "" if inner is None else source(inner)
        return f"${{{name}...}} is not just the value of a variable"
    if kind in {"command_substitution", "process_substitution"}:
        inner = next((child for child in node.named_children), None)
        command = "" if inner is None else source(inner).split(" ")[0].split("\n")[0]
        mark = "$" if kind.startswith("command") else "<"
        return f"{mark}({command} ...) {KINDS[kind]}"
    if kind == "array":
        return "it is an array"
    return f"{shown(node)} {KINDS.get(kind, 'is a form that is not translated')}"
