"""Checks which options of a command can be combined, by a table of rules. Knows no command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import click
from click.core import ParameterSource


class Rule(NamedTuple):
    """If `option` is given (None: always), none of `without` and one of `needs` must be given.

    These are names of parameters. `text` is the error; {option} in it stands for the option, and
    {other} for the first of `without` that is given, in their form on the command line.
    """

    option: str | None
    text: str
    without: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


def check(rules: Iterable[Rule]) -> None:
    """Checks the command line of the current command.

    Raises click.UsageError for the first rule that is broken.
    """
    context = click.get_current_context()
    shown = {each.name: max(each.opts, key=len) for each in context.command.params}
    source = context.get_parameter_source
    given = {name for name in context.params if source(name) is ParameterSource.COMMANDLINE}
    for option, text, without, needs in rules:
        if option is None or option in given:
            others = [name for name in without if name in given]
            if others or (needs and given.isdisjoint(needs)):
                words = {"option": option, "other": others[0] if others else None}
                raise click.UsageError(
                    text.format(**{key: shown[name] for key, name in words.items() if name})
                )
