"""The ucarps that a shell script starts, and the reasons why others are not known.

Walks the syntax tree of the text in the order in which a shell would, with the variables that are
known at each place; runs nothing. A ucarp that depends on a condition, a loop or anything else is
lost, with the reason, never guessed. Must not know what ucarp's options mean, nor configurations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from carp_fast.ucarp.shell_commands import (
    MENTION,
    SHELLS,
    SPEAKERS,
    STARTERS,
    Found,
    Lost,
    Remark,
    Started,
    Starts,
    Text,
    Unknown,
    Word,
    meaning,
    reads_only,
)
from carp_fast.ucarp.shell_parser import Node, parse
from carp_fast.ucarp.shell_scope import Scope
from carp_fast.ucarp.shell_tree import (
    AT_ANY_TIME,
    NO_WORD,
    READERS,
    SPECIAL,
    arguments_behind,
    case_body,
    condition_and_body,
    ends_clearly,
    first_fault,
    is_start,
    is_usual,
    names_in,
    operands,
    reads_a_file,
    set_by,
    source,
    word_groups,
)
from carp_fast.ucarp.shell_words import Unclear, Value, Words, shown

SHEBANG = re.compile(rb"#!\s*(?:/\S*/)?(?:env\s+(?:-S\s+)?)?([\w.-]+)")
ASSIGNING = re.compile("comment|variable_assignments?|declaration_command")
PASSWORD = ("-p", "--pass")  # the value that follows is never shown
PORTABLE = frozenset({"sh", "dash", "ash", "busybox"})  # not all of these support $'...'
# These define functions, and set nothing that is passed to ucarp.
LIBRARIES = frozenset(
    {"/lib/lsb/init-functions", "/lib/init/vars.sh", "/etc/init.d/functions"}
    | {"/etc/rc.d/init.d/functions", "/usr/lib/lsb/init-functions"}
)
DEPTH_MAX = 8  # of scripts in scripts and functions in functions


class Flow:
    """Whether the next statement runs: certainly if `why` is "", otherwise not for that reason.

    `end`: the exit code, as written, of the statement that ended the script here, or the function
    (`returned`).
    """

    def __init__(self, why: str = "") -> None:
        self.why = why
        self.end: str | None = None
        self.returned = False


def started(text: bytes, path: Path) -> Iterator[Found]:
    """What a script starts, in order; each place once, however often it is reached."""
    script = Script(text, path.absolute().parent, {}, 0)
    script.run()
    yield from script.results()


def read_text(
    text: Text, directory: Path | None, exported: Mapping[str, str], line: int
) -> Iterator[Found]:
    """What a shell starts when given this text; `line` is where the text begins."""
    variables = {name: Value(value) for name, value in exported.items()}
    data = text.text.encode(errors="surrogateescape")
    script = Script(data, directory, variables, 1, line)
    script.become(script, text.shell)
    script.run()
    yield from script.results()


def assigned(data: bytes, variables: Mapping[str, Value]) -> tuple[dict[str, Value], list[Remark]]:
    """The variables after a file of assignments; a remark for each other line."""
    script = Script(data, None, dict(variables), 1)
    others = []
    for node in parse(data).named_children:
        if not script.take(node):
            others.append(Remark(1 + node.line, source(node)))
    return script.variables, others


def expanded(text: str, variables: Mapping[str, Value]) -> list[str]:
    """The words that `text` makes as arguments of a command. Raises Unclear."""
    data = b": " + text.encode(errors="surrogateescape")
    root = parse(data)
    if root.has_error or len(root.named_children) != 1 or root.named_children[0].type != "command":
        raise Unclear(f"{text} cannot be read as words of a shell")
    words = Words(variables, portable=False)
    groups = word_groups(root.named_children[0], [])
    return [field for group in groups[1:] for field in words.fields(group)]


class Script(Scope):
    """One text. `variables` are those before it, and afterwards those after it."""

    def __init__(
        self,
        data: bytes,
        directory: Path | None,
        variables: dict[str, Value],
        depth: int,
        first_line: int = 1,
    ) -> None:
        shebang = SHEBANG.match(data)
        self._shell = shebang[1].decode() if shebang else ""
        super().__init__(directory, variables, self._shell in PORTABLE)
        self.found: list[Found] = []
        self.data = data
        self._first_line = first_line
        self._depth = depth
        self._functions: dict[str, Node] = {}
        self._called: set[str] = set()
        self._shifted = False  # $1 is no longer the script's own first argument
        self._behind: dict[int, list[Node]] = {}  # words of the command that begins there
        self._guarded = False  # a file is read only if it exists
        self._within = False  # a statement of another text continues
        self._broken = False
        self._fault = ""
        self._readable_to = 0  # lines before the first fault

    def run(self, flow: Flow | None = None) -> None:
        """Walks the whole text."""
        if self._shell and self._shell not in SHELLS:
            self._lose_mentions(f"it is written for {self._shell}, which parses words differently")
            return
        if b"\0" in self.data:
            self._lose_mentions("it contains NUL bytes, which each shell handles differently")
            return
        root = parse(self.data)
        fault = first_fault(root, self.portable)
        if fault is not None:
            self._readable_to = fault.begin
            self._fault = f"line {self._first_line + fault.line} {fault.why}"
        try:
            self._sequence(root, flow or Flow())
        except RecursionError:
            self._lose_mentions("it is nested too deeply")
        if self._within:
            return
        for name in [name for name in self._functions if name not in self._called]:
            self._called.add(name)
            self._block(self._functions[name], Flow(f"the function {name} is not called here"))

    def take(self, node: Node) -> bool:
        """Evaluates an assignment; other statements make the variables they set unknown."""
        if ASSIGNING.fullmatch(node.type) and not node.has_error:
            self._statement(node, Flow())
            return True
        self.forget(names_in(node), f"line {self._line(node)} may set it")
        return False

    def results(self) -> Iterator[Found]:
        """What was found; a start that is certain is not lost because of another place."""
        certain = [each.arguments for each in self.found if isinstance(each, Started)]
        seen: set[str] = set()
        for each in self.found:
            if isinstance(each, Lost) and each.arguments in certain:
                continue
            if repr(each) not in seen:
                seen.add(repr(each))
                yield each

    # -- statements

    def _line(self, node: Node) -> int:
        return self._first_line + node.line

    def _lose(self, node: Node, why: str, arguments: list[str] | None = None) -> None:
        self.found.append(Lost(self._line(node), why, arguments))

    def _lose_mentions(self, why: str, begin: int = 0) -> None:
        """Reports one line for all mentions of ucarp from the byte `begin` on."""
        at = self.data.find(b"ucarp", begin)
        if at >= 0 or b"ucarp" in self.data:
            line = self._first_line + self.data[: max(at, begin)].count(b"\n")
            self.found.append(Lost(line, why))

    def _decided(self, node: Node) -> str:
        return f"a condition decides (line {self._line(node)})"

    def _sequence(self, parent: Node, flow: Flow) -> None:
        """Walks statements one after the other."""
        for child in parent.children:
            after = child.sibling(1)
            if after is not None and after.type == "&":
                self.apart(lambda child=child: self._statement(child, flow))  # type: ignore[misc]
            else:
                self._statement(child, flow)

    def _statement(self, node: Node, flow: Flow) -> None:
        if self._broken or not node.named:
            return
        if self._fault and node.end_line >= self._readable_to and node.data is self.data:
            # A shell reads line by line: it has run what is before the faulty line.
            self._broken = True
            self._lose_mentions(f"{self._fault}: everything from here on is skipped", node.begin)
            return
        handler = getattr(self, f"_on_{node.type}", None)
        if handler is not None:
            handler(node, flow)
        elif node.type not in {"comment", "heredoc_body"}:
            self._scan(node, flow, "a form that is not translated")

    def _block(self, node: Node, flow: Flow) -> None:
        """Walks a statement, or those of a group."""
        if node.type in {"compound_statement", "do_group", "program"}:
            self._sequence(node, flow)
        else:
            self._statement(node, flow)

    def _after_branch(self, node: Node, flow: Flow, inner: Flow, why: str) -> None:
        """Handles what follows a branch that ended the script: the condition decides about it."""
        if inner.end is None or flow.why:
            return
        flow.returned = inner.returned
        if not why:
            self._ended(node, flow, inner.end)
        elif inner.end.isdecimal() and int(inner.end):  # an error, and not the usual case
            text = f"line {self._line(node)} may end the script before it starts ucarp"
            self.found.append(Remark(self._line(node), text))
        else:
            flow.why = f"a condition decides whether the script goes on (line {self._line(node)})"

    def _ended(self, node: Node, flow: Flow, code: str) -> None:
        flow.end = flow.end or code
        flow.why = flow.why or f"the script ends earlier, in line {self._line(node)}"

    def _on_compound_statement(self, node: Node, flow: Flow) -> None:
        if node.children and node.children[0].type == "((":
            self.forget(names_in(node), "arithmetic sets it")
        self._sequence(node, flow)

    def _on_subshell(self, node: Node, flow: Flow) -> None:
        def walk() -> None:
            inner = Flow(flow.why)
            self._sequence(node, inner)

        self.apart(walk)

    def _on_negated_command(self, node: Node, flow: Flow) -> None:
        self._sequence(node, flow)

    def _on_pipeline(self, node: Node, flow: Flow) -> None:
        for child in node.named_children:
            self.apart(lambda child=child: self._statement(child, Flow(flow.why)))  # type: ignore[misc]

    def _on_list(self, node: Node, flow: Flow) -> None:
        """A && B, A || B."""
        left, operator, right = operands(node)
        self._statement(left, flow)
        wanted = operator.type == "&&"
        usual = is_usual(left, wanted, plain=wanted)
        why = "" if usual else f"a condition decides whether it runs (line {self._line(left)})"
        inner = Flow(flow.why or why)

        def walk() -> None:
            self._statement(right, inner)

        if usual and wanted and reads_a_file(right):
            self._guarded = True
            walk()
            self._guarded = False
        else:
            self.alternatives([walk, lambda: None], self._decided(left))
        if inner.end is None or flow.why:
            return
        if is_usual(left, not wanted, plain=not wanted):
            return  # only the unusual case ends the script
        self._after_branch(right, flow, inner, why or "it")

    def _on_if_statement(self, node: Node, flow: Flow) -> None:
        """if A; then B; elif C; then D; else E; fi: A is run in any case."""
        conditions, body = condition_and_body(node)
        alone = len(conditions) == 1 and node.children[-1].sibling(-1) is body[-1]
        if alone and all(map(reads_a_file, body)) and is_usual(conditions[0], True, plain=False):
            self._guarded = True
            self._walk_all(node, body, flow, "")()
            self._guarded = False
            return
        walks: list[Callable[[], None]] = []
        spared = ""  # why one of the earlier branches may have been taken instead
        parts = [node, *(child for child in node.children if child.type == "elif_clause")]
        for part in parts:
            conditions, body = condition_and_body(part)
            for condition in conditions:
                self._statement(condition, flow if part is node else Flow(flow.why or spared))
            reason = f"a condition decides whether it runs (line {self._line(part)})"
            usual = len(conditions) == 1 and is_usual(conditions[0], True, plain=False)
            walks.append(self._walk_all(part, body, flow, spared or ("" if usual else reason)))
            avoided = len(conditions) == 1 and is_usual(conditions[0], False, plain=False)
            spared = spared or ("" if avoided else reason)
        other = [child for child in node.children if child.type == "else_clause"]
        walks.append(self._walk_all(node, other[0].named_children if other else [], flow, spared))
        self.alternatives(walks, self._decided(node))

    def _walk_all(
        self, node: Node, body: Sequence[Node], flow: Flow, why: str
    ) -> Callable[[], None]:
        def walk() -> None:
            inner = Flow(flow.why or why)
            for child in body:
                self._statement(child, inner)
            self._after_branch(node, flow, inner, why)

        return walk

    def _on_case_statement(self, node: Node, flow: Flow) -> None:
        """Handles `case`: a script's argument is assumed to be "start"; others are unknown."""
        items = [child for child in node.named_children if child.type == "case_item"]
        subject = node.named_children[0]
        try:
            self.words().text(subject)
            known = True
        except Unclear:
            known = False
        starting = [] if known or self._shifted else [item for item in items if is_start(item)]
        reason = f"a condition decides whether it runs (line {self._line(node)})"
        walks: list[Callable[[], None]] = []
        for item in items:
            if starting and item not in starting:
                # What it does at its end does not happen at the start.
                spared = Flow(flow.why or reason)
                walks.append(self._walk_all(item, case_body(item), spared, reason))
            else:
                why = "" if starting else reason
                walks.append(self._walk_all(item, case_body(item), flow, why))
        self.alternatives(walks if starting else [*walks, lambda: None], self._decided(node))

    def _on_while_statement(self, node: Node, flow: Flow) -> None:
        self._loop(node, flow)

    def _on_for_statement(self, node: Node, flow: Flow) -> None:
        self._loop(node, flow)

    def _on_c_style_for_statement(self, node: Node, flow: Flow) -> None:
        self._loop(node, flow)

    def _loop(self, node: Node, flow: Flow) -> None:
        line = self._line(node)
        self.forget(names_in(node), f"a loop sets it (line {line})")
        inner = Flow(flow.why or f"a loop decides how often and with what it runs (line {line})")
        for child in node.named_children:
            self._block(child, inner)
        self.forget(names_in(node), f"a loop sets it (line {line})")

    def _on_function_definition(self, node: Node, flow: Flow) -> None:
        body = node.body
        name = node.name
        if body is not None and name is not None:
            self._functions[source(name)] = body

    def _call(self, name: str, flow: Flow) -> None:
        self._called.add(name)
        if len(self.locals) >= DEPTH_MAX:
            return
        inner = Flow(flow.why)
        self.call(lambda: self._block(self._functions[name], inner))
        if not inner.returned:
            flow.end, flow.why = flow.end or inner.end, flow.why or inner.why

    def _on_test_command(self, node: Node, flow: Flow) -> None:
        self._scan(node, flow, "its output decides a condition")
        self.forget(names_in(node), "an expression sets it")

    def _on_redirected_statement(self, node: Node, flow: Flow) -> None:
        """Handles a statement with redirections, and the words or pipe after them."""
        body, more = node.children[0], []
        if not node.body:
            body = node.children[-1]
        for redirect in node.children:
            if redirect.type.endswith("_redirect"):
                more += arguments_behind(redirect)
                self._on_redirect(redirect, body, flow)
        last = body
        while last.type in {"list", "pipeline"}:
            last = last.children[-1]
        if more and last.type != "command":
            self._lose(node, "it is not clear where its words end")
            return
        self._behind[last.begin] = more
        if body.type == "command" or body.type not in {
            "file_redirect",
            "heredoc_redirect",
            "herestring_redirect",
        }:
            self._statement(body, flow)

    def _on_redirect(self, redirect: Node, body: Node, flow: Flow) -> None:
        """A here-document is text, unless a shell reads it; a pipe may follow it."""
        text = "".join(
            source(child)
            for child in redirect.children
            if child.type in {"heredoc_body", "string", "raw_string"}
        )
        readers = [child for child in redirect.children if child.type in {"pipeline", "list"}]
        for child in readers:
            self._sequence(child, flow)
        if MENTION.search(text):
            names = [source(body), *map(source, readers)]
            if any(re.search(r"\b(?:ba|da|k|a)?sh\b", name) for name in names):
                self._lose(redirect, "it is in a text that another shell reads")

    # -- variables

    def _on_variable_assignments(self, node: Node, flow: Flow) -> None:
        self._sequence(node, flow)

    def _on_variable_assignment(self, node: Node, flow: Flow) -> None:
        self._scan(node, flow, "its output is assigned to a variable")
        self.assign(node)

    def _on_declaration_command(self, node: Node, flow: Flow) -> None:
        self._scan(node, flow, "its output is assigned to a variable")
        self.declare(node)

    def _on_unset_command(self, node: Node, flow: Flow) -> None:
        names = [source(child) for child in node.named_children]
        for name in names:
            self.variables.pop(name, None)
            body = self._functions.pop(name, None) if "-f" in names else None
            if body is not None and name not in self._called:
                self._block(body, Flow(f"the function {name} is not called here"))

    # -- commands

    def _scan(self, node: Node, flow: Flow, why: str) -> None:
        """Walks the commands within a word: nothing that they start is certain."""
        for child in node.named_children:
            if child.type == "arithmetic_expansion":
                self.forget(names_in(child), "arithmetic sets it")
            if child.type in {"command_substitution", "process_substitution", "subshell"}:
                self.apart(lambda child=child: self._sequence(child, Flow(flow.why or why)))  # type: ignore[misc]
            else:
                self._scan(child, flow, why)

    def _on_command(self, node: Node, flow: Flow) -> None:
        self._command(node, flow, self._behind.pop(node.begin, []))

    def _command(self, node: Node, flow: Flow, more: list[Node]) -> None:
        self._scan(node, flow, "its output is used by another command")
        for child in node.children:
            if child.type.endswith("_redirect"):
                self._on_redirect(child, node, flow)
            if child.type == "variable_assignment" and not ends_clearly(child):
                name = child.name
                self.forget([source(name or child)], "it is not clear where its value ends")
        words: list[Word] = []
        for group in word_groups(node, more):
            try:
                if group is NO_WORD:
                    raise Unclear("it is not clear where its words end")
                words += self.words().fields(group)
            except Unclear as unclear:
                if words and words[-1] in PASSWORD and group and source(group[0])[:1] != "$":
                    text = str(unclear).replace(shown(group[0]), "the password", 1)
                    unclear = Unclear(text, unclear.candidates)
                words.append(unclear)
        end = node.data.find(b"\n", node.end)
        if b"\r" in node.data[node.begin : end if end >= 0 else len(node.data)]:
            if MENTION.search(source(node)):
                self._lose(node, "its line contains a carriage return; use plain line ends")
            return
        self._run(node, flow, words)

    def _run(self, node: Node, flow: Flow, words: list[Word]) -> None:
        """Applies the effects of a command on the script, and finds the ucarp that it starts."""
        head = words[0] if words and isinstance(words[0], str) else ""
        rest = words[1:]
        if head in self._functions or head in SPECIAL:
            given = [child for child in node.children if child.type == "variable_assignment"]
            self.forget(
                [source(c.name or c) for c in given],
                f"it is assigned for {head}, and shells differ in what that means",
            )
        if head in self._functions and head not in SPEAKERS | STARTERS:
            self._call(head, flow)
            return
        if head in {".", "source"}:
            self._source(rest, node)
        elif head in {"exit", "return"}:
            code = rest[0] if rest and isinstance(rest[0], str) else ""
            self._ended(node, flow, code)
            flow.returned = head == "return"
        elif head == "set" and reads_only(rest):
            self._ended(node, flow, "")
        elif head in ("trap", "shopt") and AT_ANY_TIME.intersection(map(str, rest)):
            flow.why = flow.why or f"{head} changes what follows (line {self._line(node)})"
        elif head == "shift" or (head == "set" and any(_is_plain(word) for word in rest)):
            self._shifted = True
        elif head == "cd":
            self._change_directory(rest)
        elif head in READERS:
            self.forget(set_by(head, rest), f"{head} sets it")
        self._start(node, flow, words)
        if head == "exec" and rest:
            self._ended(node, flow, "")

    def _start(self, node: Node, flow: Flow, words: list[Word]) -> None:
        found = meaning(words, source(node))
        if isinstance(found, Starts):
            if flow.why:
                self._lose(node, flow.why, found.arguments)
            else:
                directory = Path("/") if found.at_root else self.directory
                self.found.append(Started(self._line(node), found.arguments, directory))
        elif isinstance(found, Unknown):
            self._lose(node, flow.why or found.why)
        elif isinstance(found, Text):
            self._read(node, flow, found)
        if words[:1] == ["eval"] and not isinstance(found, Text):
            self.forget(list(self.variables), f"eval may set it (line {self._line(node)})")

    def _read(self, node: Node, flow: Flow, text: Text) -> None:
        """Walks a text that this shell, or another one, parses again."""
        if self._depth >= DEPTH_MAX:
            self._lose(node, "scripts are nested too deeply")
            return
        here = not text.shell
        given = {n: v for n, v in self.variables.items() if here or n in self.exported}
        data = text.text.encode(errors="surrogateescape")
        inner = Script(data, self.directory, given, self._depth + 1, self._line(node))
        inner.become(self, text.shell)
        inner.run(Flow(flow.why))
        self.found += inner.found
        if here:
            self.variables, self.directory = inner.variables, inner.directory

    def become(self, outer: Script, shell: str) -> None:
        """Reads as the shell of that name; if it is "", as `outer`, with its functions."""
        if shell:
            self.portable = shell in PORTABLE
        else:
            self._within = True
            self.portable, self._functions = outer.portable, outer._functions
            self._called, self.exported = outer._called, outer.exported

    def _source(self, words: list[Word], node: Node) -> None:
        """`. FILE`: reads the file as if it were written here."""
        line = self._line(node)
        name = words[0] if words and isinstance(words[0], str) else ""
        if name in LIBRARIES:
            return
        why = f"another file may set it (line {line})"
        directory = Path("/") if name.startswith("/") else self.directory
        if "/" not in name or directory is None or self._depth >= DEPTH_MAX:
            self.forget(list(self.variables), why)
            return
        path = directory / name
        try:
            data = path.read_bytes()
        except OSError as error:
            if self._guarded and isinstance(error, FileNotFoundError):
                self.found.append(Remark(line, f"{path} does not exist here and is skipped"))
                return
            text = f"{path} is not read ({error.strerror}): what it sets is not known"
            self.found.append(Remark(line, text))
            self.forget(list(self.variables), why)
            return
        inner = Script(data, self.directory, self.variables, self._depth + 1)
        inner.become(self, "")
        inner.run(Flow("it is in a file that this script reads; name that file instead"))
        self.found += [each._replace(line=line) for each in inner.found]
        self.variables, self.directory = inner.variables, inner.directory

    def _change_directory(self, words: list[Word]) -> None:
        target = next((w for w in words if not (isinstance(w, str) and w.startswith("-"))), None)
        if isinstance(target, str) and (target.startswith("/") or self.directory is not None):
            self.directory = (self.directory or Path("/")) / target
        else:
            self.directory = None


def _is_plain(word: Word) -> bool:
    return isinstance(word, Unclear) or not word.startswith(("-", "+"))
