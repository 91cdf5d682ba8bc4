"""The user that the daemon becomes: which, what it is given, and what would not work as that user.

`leave_root` is all of this in the order of a start. Must not know how a process becomes another
user; that is in privileges.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import carp_fast
from carp_fast.config import accounts
from carp_fast.config.model import Fault, as_shown
from carp_fast.config.secrets import credentials_directory
from carp_fast.config.tracks import FileTrack, ProcessTrack, ScriptTrack
from carp_fast.daemon.control_group import group_of
from carp_fast.daemon.directories import Directory
from carp_fast.daemon.privileges import Privileges, missing_for_drop
from carp_fast.daemon.process import StartError, forbid_tracing
from carp_fast.daemon.receiving import RING, TCX
from carp_fast.daemon.sending import PACKET

if TYPE_CHECKING:
    from carp_fast.config.load import Configuration, Daemon
    from carp_fast.config.model import Settings, User

logger = logging.getLogger(__name__)

ROOT = 0
STAYING = 'or daemon.user = "root"'
PYTHON = (Path(os.__file__), Path(carp_fast.__file__))


def leave_root(configuration: Configuration, pid_file: Path | None) -> Privileges:
    """Opens what only root may open, then becomes `daemon.user`, unless that is not set, or root.

    Raises StartError, also where something that is configured would not work as that user.
    """
    settings = configuration.daemon
    user = settings.user
    if os.geteuid() != ROOT:
        if user is not None and user.uid != os.geteuid():
            text = f"only root can become another user; allowed: start as root, or as {user}"
            raise StartError(str(_fault(configuration, "user", user.name, text)))
        return Privileges(pid_file)
    if user is None or user.uid == ROOT:
        logger.info("stays root: daemon.user is %s", "not set" if user is None else user.name)
        return Privileges(pid_file)
    if found := list(faults(configuration)):
        raise StartError("\n".join(map(str, found)))
    with contextlib.ExitStack() as stack:
        privileges = stack.enter_context(Privileges(pid_file))
        for key, directory in _not_usable(settings, user):
            try:
                directory.give(user)
            except OSError as error:
                text = f"{directory.path} cannot be given to {user}: {error.strerror}"
                raise StartError(str(_fault(configuration, key, None, text))) from error
        privileges.drop_to(user, groups=_groups(settings, user), bpf=_uses_bpf(settings))
        logger.info("became %s", user)
        if not has_functions(configuration):
            privileges.confine(directory.path for _, directory in _directories(settings))
        stack.pop_all()
    return privileges


def faults_of(configuration: Configuration) -> Iterator[str]:
    """What would keep a daemon that root starts from becoming `daemon.user`, a line each.

    Nothing where this process is not root, and cannot know.
    """
    user = configuration.daemon.user
    if user is not None and os.geteuid() == ROOT != user.uid:
        yield from map(str, faults(configuration))


def faults(configuration: Configuration) -> Iterator[Fault]:
    """What is configured and would not work as `daemon.user`, for a process of root."""
    user = configuration.daemon.user
    assert user is not None

    def fault(text: str, key: str = "user") -> Fault:
        value = user.name if key == "user" else str(getattr(configuration.daemon, key))
        return _fault(configuration, key, value, text)

    if missing := missing_for_drop():
        yield fault(f"{' and '.join(missing)} missing; allowed: grant them, {STAYING}")
        return
    for text in needs_root(configuration):
        yield fault(f"{text}; allowed: a configuration without that, {STAYING}")
    try:
        with acting_as(user, _groups(configuration.daemon, user)):
            unreadable = [path for path in (*PYTHON, *_files(configuration)) if not _readable(path)]
        barred = _not_usable(configuration.daemon, user)
    except OSError as error:  # such as in a user namespace that has no other user
        yield fault(
            f"cannot become {user}: {error.strerror}; allowed: a user who exists, {STAYING}"
        )
        return
    for path in unreadable:
        yield fault(f"{user} may not read {path}; allowed: a user who may, {STAYING}")
    for key, directory in barred:
        if why := directory.not_given():
            yield fault(f"{user} may not use {directory.path}, and {why}", key)


def needs_root(configuration: Configuration) -> Iterator[str]:
    """What is configured and needs root whenever it is used, a line for each kind."""
    hooks = {target for each in _settings(configuration) for target in (each.up, each.down)}
    programs = sorted(each for each in hooks if each is not None and each.startswith("/"))
    scripts = [each.name for each in configuration.tracks if isinstance(each, ScriptTrack)]
    processes = [
        each.name
        for each in configuration.tracks
        if isinstance(each, ProcessTrack) and each.executable is not None
    ]
    if programs:
        yield f"hooks run as root, as {programs[0]}"
    if configuration.daemon.notify is not None:
        yield f"notify runs as root, {configuration.daemon.notify}"
    if scripts:
        yield f"scripts of tracks run as root, as that of {scripts[0]}"
    if processes:
        yield f"only root sees what a process executes, as the track {processes[0]} wants"


def _fault(configuration: Configuration, key: str, value: str | None, text: str) -> Fault:
    shown = None if value is None else as_shown(value)
    return Fault(str(configuration.path), "daemon", key, shown, text)


@contextlib.contextmanager
def acting_as(user: User, groups: Iterable[int]) -> Iterator[None]:
    """Has this process, of root and with one thread, the rights of a user for as long as it lasts.

    Only what files permit is meant; real and saved user stay root.
    """
    before = os.getgroups(), os.getegid()
    os.setgroups(sorted(set(groups)))
    try:
        os.setegid(user.gid)
        os.seteuid(user.uid)
        yield
    finally:
        os.seteuid(ROOT)
        os.setegid(before[1])
        os.setgroups(before[0])
        forbid_tracing()  # another user than before: the kernel has forgotten it


def _groups(settings: Daemon, user: User) -> list[int]:
    """The groups of the user, and that of the control socket, which it could not give otherwise."""
    group = group_of(settings)
    own = accounts.groups_of(user.name, user.gid)
    return own if group is None or group.gid is None else [*own, group.gid]


def _uses_bpf(settings: Daemon) -> bool:
    return settings.send != PACKET or settings.receive in ("auto", RING, TCX)


def _directories(settings: Daemon) -> list[tuple[str, Directory]]:
    """The directories in which a daemon creates files, with the keys that name them."""
    sockets = [("control_socket", settings.control_socket)]
    if settings.metrics is not None and settings.metrics.path is not None:
        sockets.append(("metrics", settings.metrics.path))
    keys: dict[Path, str] = {}
    names: dict[Path, set[str]] = {}  # two sockets may have one directory
    for key, socket in sockets:
        keys.setdefault(socket.parent, key)
        names.setdefault(socket.parent, set()).update({socket.name, f"{socket.name}.lock"})
    places = [(key, Directory(path, names[path])) for path, key in keys.items()]
    return [("state_directory", Directory(settings.state_directory)), *places]


def _not_usable(settings: Daemon, user: User) -> list[tuple[str, Directory]]:
    """Those of these directories that the user may not use as they are."""
    with acting_as(user, _groups(settings, user)):
        return [(key, each) for key, each in _directories(settings) if not each.is_usable()]


def _settings(configuration: Configuration) -> list[Settings]:
    """The settings of virtual hosts, each once."""
    return list({id(each.settings): each.settings for each in configuration.virtual_hosts}.values())


def has_functions(configuration: Configuration) -> bool:
    """Whether hooks are functions, which the daemon itself calls."""
    hooks = [target for each in _settings(configuration) for target in (each.up, each.down)]
    return any(each is not None and not each.startswith("/") for each in hooks)


def _files(configuration: Configuration) -> list[Path]:
    """The files that a daemon reads again: at a reload, and for tracks."""
    included = [each.parent for each in configuration.files[1:]]  # patterns look through these
    found = [*configuration.files, *included, *configuration.ended]
    if configuration.daemon.secret_key_file is not None:
        found.append(configuration.daemon.secret_key_file)
    credentials = credentials_directory()
    if credentials is not None and credentials.is_dir():
        found += credentials.iterdir()
    for track in configuration.tracks:
        if isinstance(track, FileTrack):
            found.append(Path(track.path))
        elif isinstance(track, ProcessTrack) and track.pid_file is not None:
            found.append(Path(track.pid_file))
    return list(dict.fromkeys(found))


def _readable(path: Path) -> bool:
    """Whether a file can be read, or does not exist yet."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return os.access(path, os.R_OK, effective_ids=True)
