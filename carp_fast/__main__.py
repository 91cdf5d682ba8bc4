"""The command carp-fast, also as ``python -m carp_fast`` and under names that end in ucarp.

Selects which command runs: what runs as ucarp must not pay for importing the other commands.
``python -P PATH/carp_fast/__main__.py`` runs the package in that place, whatever else is installed.
Until the search path is right nothing may be imported that Python has not loaded already.
"""

import os
import sys

UCARP = "ucarp"
RUN = "run"
PRIVILEGED = "privileged"


def main() -> None:
    """Runs the command named by the program's name or its first argument; exits with its code."""
    import signal

    from carp_fast.signals import remember
    from carp_fast.standard import open_missing

    open_missing()
    words = sys.argv
    by_name = words[0].rpartition("/")[2].endswith(UCARP)
    if by_name or words[1:2] == [UCARP]:
        remember(signal.SIGUSR1, signal.SIGUSR2)
        from carp_fast.ucarp.main import main as ucarp

        count = 1 if by_name else 2
        sys.exit(ucarp(words[:count], words[count:]))
    if words[1:2] == [PRIVILEGED]:
        from carp_fast.privileged.main import main as privileged

        sys.exit(privileged(words[2:]))
    if words[1:2] == [RUN]:
        remember(signal.SIGHUP, signal.SIGUSR1)
        if "--help" not in words:
            from carp_fast.privileged import start

            start.begin()
    from carp_fast.cli.main import main as commands

    commands(prog_name="carp-fast")


def _leave_current_directory() -> None:
    """Removes the current directory, which ``python -m`` puts first, from the search path.

    Anybody may write modules into /tmp. If the package itself is there, so is everything else.
    """
    try:
        current = os.getcwd()
    except OSError:  # it was removed
        current = ""
    here = os.path.dirname(os.path.dirname(__file__))
    if sys.path[:1] in ([""], [current]) and sys.path[0] != here:
        del sys.path[0]


def _load_package() -> None:
    """Loads the package that this file is part of, although it may not be on the search path."""
    from importlib.util import module_from_spec, spec_from_file_location

    folder = os.path.dirname(os.path.abspath(__file__))
    spec = spec_from_file_location(
        "carp_fast", os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = module_from_spec(spec)
    sys.modules["carp_fast"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    if __package__:
        _leave_current_directory()
    else:
        _load_package()
    main()
