"""What a script knows at one place: its variables, and its working directory.

Must not know statements or commands; shell_words makes values of words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from carp_fast.ucarp.shell_parser import Node
from carp_fast.ucarp.shell_tree import NAME, ends_clearly, source
from carp_fast.ucarp.shell_words import Unclear, Value, Words

CHANGING = frozenset("aAilnu")  # attributes that change an assigned value


class Scope:
    """The variables of a script at one place; `directory` is None if it is not known.

    `portable`: for /bin/sh, of which there are several implementations.
    """

    def __init__(self, directory: Path | None, variables: dict[str, Value], portable: bool) -> None:
        self.directory = directory
        self.variables = variables
        self.portable = portable
        self.exported: set[str] = set()
        self.locals: list[dict[str, Value | None]] = []  # of each function: what to restore
        # Variables of which an assignment says too little: an attribute changes it. And why.
        self._changed: dict[str, str] = {}
        self._read_only: set[str] = set()

    def words(self) -> Words:
        return Words(self.variables, self.portable)

    def forget(self, names: Sequence[str], why: str) -> None:
        """Makes these variables unknown from now on."""
        for name in names:
            may_be = self.variables[name].may_be if name in self.variables else ()
            self.variables[name] = Value(None, why, may_be)

    def apart(self, walk: Callable[[], None]) -> None:
        """Walks what runs in a separate process: what it sets has no effect here."""
        kept, directory = dict(self.variables), self.directory
        walk()
        self.variables, self.directory = kept, directory

    def alternatives(self, walks: Sequence[Callable[[], None]], why: str) -> None:
        """Walks each from the same beginning; values that differ after them become unknown."""
        begin, directory = dict(self.variables), self.directory
        ends, directories = [], []
        for walk in walks:
            self.variables, self.directory = dict(begin), directory
            walk()
            ends.append(self.variables)
            directories.append(self.directory)
        joined = {}
        for name in {name for each in ends for name in each}:
            values = [each.get(name) for each in ends]
            if all(value == values[0] for value in values) and values[0] is not None:
                joined[name] = values[0]
            else:
                may_be = tuple(t for value in values if value is not None for t in value.may_be)
                joined[name] = Value(None, why, may_be)
        self.variables = joined
        self.directory = directories[0] if len(set(directories)) == 1 else None

    def call(self, walk: Callable[[], None]) -> None:
        """Walks a function; its local variables end with it."""
        self.locals.append({})
        read_only = set(self._read_only)
        walk()
        for name, value in self.locals.pop().items():
            self._read_only -= {name} - read_only
            self.variables.pop(name, None)
            if value is not None:
                self.variables[name] = value

    def assign(self, node: Node) -> None:
        """Assigns NAME=VALUE or NAME+=VALUE."""
        name, value = node.name, node.value
        assert name is not None
        if name.type == "subscript":
            self.forget([source(name).partition("[")[0]], "it is an array")
            return
        word = source(name)
        try:
            if word in self._changed:
                raise Unclear(self._changed[word])
            if word in self._read_only:
                raise Unclear("it is read-only, and shells differ in what they do then")
            if not ends_clearly(node):
                raise Unclear("it is not clear where its value ends")
            text = self.words().text(value)
            if node.children[1].type == "+=":
                before = None if self.portable else self.variables.get(word)
                if before is None or before.text is None:
                    raise Unclear("what it is added to is not known")
                text = before.text + text
        except Unclear as unclear:
            self.variables[word] = Value(None, str(unclear), unclear.candidates)
        else:
            self.variables[word] = Value(text)

    def declare(self, node: Node) -> list[Node]:
        """Handles export, local, readonly, declare, typeset; returns what is not a name or
        assignment.
        """
        kind = source(node.children[0])
        options = [source(c) for c in node.named_children if source(c).startswith(("-", "+"))]
        letters = {letter for word in options for letter in word[1:]}
        others = []
        for child in node.named_children:
            assigned = child.type == "variable_assignment"
            name = source(child.name or child) if assigned else source(child)
            if not NAME.fullmatch(name):
                others.append(child)
                continue
            if "g" in letters and any(name in each for each in self.locals):
                self._set_outside(name, f"{kind} {' '.join(options)} sets it")
                continue
            if "g" not in letters and kind in {"local", "declare", "typeset"} and self.locals:
                self.locals[-1].setdefault(name, self.variables.get(name))
                if not assigned:
                    self.variables[name] = (
                        Value(None, "local has no value") if (self.portable) else Value("")
                    )
            if kind in {"declare", "typeset"} and self.portable:
                self._changed[name] = f"not every /bin/sh supports {kind}"
                self.forget([name], self._changed[name])
                continue
            if kind == "export":
                self.exported.add(name)
            if kind != "export" and "n" in letters:
                self._refer(child, name)
            if kind != "export" and letters & CHANGING:
                self._changed[name] = f"{kind} {' '.join(options)} changes it"
                self.forget([name], self._changed[name])
            if assigned:
                self.assign(child)
            if kind == "readonly" or (kind != "export" and "r" in letters):
                self._read_only.add(name)
        return others

    def _set_outside(self, name: str, why: str) -> None:
        """Notes that a function sets a variable of the script, where it may have its own."""
        for each in self.locals:
            if name in each:
                each[name] = Value(None, why)

    def _refer(self, node: Node, name: str) -> None:
        """Makes unknown what a reference may set: the variable that it names, if that is clear."""
        target = source(node.value) if node.value is not None else ""
        every = [target] if NAME.fullmatch(target) else [*self.variables]
        for each in every:
            self._changed[each] = f"{name} may refer to it"
            self.forget([each], self._changed[each])
