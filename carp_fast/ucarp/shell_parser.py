"""The syntax tree of a shell script: its words and statements, by tree-sitter's bash grammar.

The only module that knows the parser. The parser gets only ASCII: on some other code points its
scanner reads beyond its tables and ends the process. To a shell they all are plain characters.
"""

from __future__ import annotations

import tree_sitter
import tree_sitter_bash

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))
PLAIN = ord("%")  # replaces what is not ASCII: a character of words, but not of names
AS_ASCII = bytes(byte if byte < 0x80 else PLAIN for byte in range(0x100))


class Node:
    """A node of the tree; `data` is the whole script, of which it is from `begin` to `end`.

    `line` and `end_line` count from 0; a `named` node stands for a rule of the grammar, others for
    the literal characters that are their `type`. An `error` is text that no rule fits, or that is
    missing.
    """

    __slots__ = (
        *("begin", "children", "data", "end", "end_line", "error", "has_error", "line", "name"),
        *("named", "parent", "place", "type", "value", "body"),
    )

    def __init__(self, data: bytes, node: tree_sitter.Node, parent: Node | None) -> None:
        self.data = data
        self.parent = parent
        self.type = node.type
        self.named = node.is_named
        self.begin, self.end = node.start_byte, node.end_byte
        self.line, self.end_line = node.start_point[0], node.end_point[0]
        self.error = node.is_error or node.is_missing
        self.has_error = node.has_error
        self.children: list[Node] = []
        self.place = 0 if parent is None else len(parent.children)
        # The children that the grammar gives these names.
        self.name: Node | None = None
        self.value: Node | None = None
        self.body: Node | None = None

    @property
    def text(self) -> bytes:
        return self.data[self.begin : self.end]

    @property
    def named_children(self) -> list[Node]:
        return [child for child in self.children if child.named]

    def sibling(self, step: int) -> Node | None:
        """The node `step` places after this one, or before it if negative."""
        place = self.place + step
        if self.parent is None or not 0 <= place < len(self.parent.children):
            return None
        return self.parent.children[place]


def parse(data: bytes) -> Node:
    """Parses a script."""
    source = PARSER.parse(data.translate(AS_ASCII)).root_node
    root = Node(data, source, None)
    pending = [(root, source)]
    while pending:
        node, of_parser = pending.pop()
        for at, child in enumerate(of_parser.children):
            made = Node(data, child, node)
            node.children.append(made)
            field = of_parser.field_name_for_child(at)
            if field in ("name", "value", "body"):
                setattr(node, field, made)
            pending.append((made, child))
    return root
