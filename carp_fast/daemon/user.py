"""The user that the daemon becomes: which, what it is given, and what would not work as that user.

`leave_root` is all of this in the order of a start. Must not know how a process becomes another
user; that is in privileges.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import carp_fast
from carp_fast.config import accounts
from carp_fast.config.model import Fault, User, as_shown
from carp_fast.config.tracks import FileTrack, ProcessTrack
from carp_fast.daemon.control_group import group_of
from carp_fast.daemon.directories import Directory
from carp_fast.daemon.privileges import Privileges, missing_for_drop
from carp_fast.daemon.process import StartError, forbid_tracing
from carp_fast.daemon.receiving import RING, TCX
from carp_fast.daemon.sending import PACKET

if TYPE_CHECKING:
    from carp_fast.config.load import Configuration, Daemon
    from carp_fast.config.model import Settings

logger = logging.getLogger(__name__)

ROOT = 0
USUAL_USER = "carp-fast"
STAYING = 'or daemon.user = "root"'
FREE_PORTS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")  # IPv6, too
USUAL_FREE_PORT = 1024
PYTHON = (Path(os.__file__), Path(carp_fast.__file__))

Directories = Sequence[tuple[str, Directory]]
"""Those in which a daemon creates files, with the keys that name them."""


class Obstacle(NamedTuple):
    """What is configured and would not work as a user. `allowed`: instead; `key`: of [daemon]."""

    text: str
    allowed: str = ""
    key: str = "user"


def leave_root(
    configuration: Configuration, pid_file: Path | None, *, succeeds: bool = False
) -> Privileges:
    """Opens what only root may open, then becomes `daemon.user`, unless that is root.

    Without that key see leave_root_by_default(). `succeeds`: another daemon passes on what it has
    opened, see Privileges. Raises StartError, also where something that is
    configured would not work as that user.
    """
    settings = configuration.daemon
    user = settings.user
    directories = _directories(settings)
    if user is None:
        if os.geteuid() == ROOT and usual_user() is None:
            logger.info("stays root: daemon.user is not set, and there is no user %s", USUAL_USER)
        return leave_root_by_default(configuration, pid_file, directories, succeeds=succeeds)
    if os.geteuid() != ROOT and user.uid != os.geteuid():
        text = f"only root can become another user; allowed: start as root, or as {user}"
        raise StartError(str(_fault(configuration, "user", user.name, text)))
    if user.uid in (ROOT, os.geteuid()):
        return Privileges(pid_file, succeeds=succeeds)
    if found := list(faults(configuration)):
        raise StartError("\n".join(map(str, found)))
    if (obstacle := _give(directories, configuration, user)) is not None:
        raise StartError(str(_fault(configuration, obstacle.key, None, obstacle.text)))
    return _become(user, configuration, pid_file, directories, succeeds=succeeds)


def leave_root_by_default(
    configuration: Configuration,
    pid_file: Path | None = None,
    directories: Directories = (),
    *,
    succeeds: bool = False,
) -> Privileges:
    """Becomes the user `carp-fast`, if this is a process of root and there is such a user.

    Where something prevents that it stays root, and logs what. Raises StartError if the kernel
    refuses what was found to be possible.
    """
    user = usual_user()
    if user is None or os.geteuid() != ROOT:
        return Privileges(pid_file, succeeds=succeeds)
    why = _reason(list(_obstacles_by_default(configuration, user, directories)))
    if why is None and (obstacle := _give(directories, configuration, user)) is not None:
        why = obstacle.text
    if why is not None:
        logger.info("stays root and does not become %s: %s", user, why)
        return Privileges(pid_file, succeeds=succeeds)
    return _become(user, configuration, pid_file, directories, succeeds=succeeds)


def usual_user() -> User | None:
    """The user that a daemon of root becomes if the configuration names none; None: there is none.

    Only one in /etc/passwd: others are looked up by servers that may not answer.
    """
    if accounts.local_user_number(USUAL_USER) in (None, ROOT):
        return None
    found = accounts.user_named(USUAL_USER)
    return None if found is None else User(found.pw_name, found.pw_uid, found.pw_gid)


def faults_of(configuration: Configuration) -> Iterator[str]:
    """What would keep a daemon that root starts from becoming `daemon.user`, a line each.

    Nothing where this process is not root, and cannot know.
    """
    user = configuration.daemon.user
    if user is not None and os.geteuid() == ROOT != user.uid:
        yield from map(str, faults(configuration))


def plan_of(configuration: Configuration) -> str | None:
    """Which user a daemon of root is by default, and why; None where there is nothing to tell.

    That is: the key is set, there is no usual user, or this process is not root.
    """
    user = usual_user()
    if configuration.daemon.user is not None or user is None or os.geteuid() != ROOT:
        return None
    directories = _directories(configuration.daemon)
    why = _reason(list(_obstacles_by_default(configuration, user, directories)))
    return str(user) if why is None else f"root, and not {user}: {why}"


def faults(configuration: Configuration) -> Iterator[Fault]:
    """What is configured and would not work as `daemon.user`, for a process of root."""
    user = configuration.daemon.user
    assert user is not None
    for text, allowed, key in _obstacles(configuration, user, _directories(configuration.daemon)):
        value = user.name if key == "user" else str(getattr(configuration.daemon, key))
        instead = f"; allowed: {allowed}, {STAYING}" if allowed else ""
        yield _fault(configuration, key, value, f"{text}{instead}")


def _obstacles(
    configuration: Configuration, user: User, directories: Directories
) -> Iterator[Obstacle]:
    if missing := missing_for_drop():
        yield Obstacle(f"{' and '.join(missing)} missing", "grant them")
        return
    for text in needs_root(configuration):
        yield Obstacle(text, "a configuration without that")
    try:
        with acting_as(user, _groups(configuration.daemon, user)):
            unreadable = [path for path in (*PYTHON, *_files(configuration)) if not _readable(path)]
        barred = _not_usable(directories, configuration, user)
    except OSError as error:  # such as in a user namespace that has no other user
        yield Obstacle(f"cannot become {user}: {error.strerror}", "a user who exists")
        return
    for path in unreadable:
        yield Obstacle(f"{user} may not read {path}", "a user who may")
    for key, directory in barred:
        if why := directory.not_given():
            yield Obstacle(f"{user} may not use {directory.path}, and {why}", key=key)


def _obstacles_by_default(
    configuration: Configuration, user: User, directories: Directories
) -> Iterator[Obstacle]:
    """Also what would work, but with fewer rights than it has had, without being asked for."""
    if has_functions(configuration):
        yield Obstacle("hooks that are functions run in the daemon, and may need root")
    yield from _obstacles(configuration, user, directories)


def _reason(obstacles: Sequence[Obstacle]) -> str | None:
    """The first one, and how many follow."""
    if not obstacles:
        return None
    return obstacles[0].text + (f" (and {len(obstacles) - 1} more)" if obstacles[1:] else "")


def needs_root(configuration: Configuration) -> Iterator[str]:
    """What is configured and needs root whenever it is used, a line for each kind.

    Programs do not: the privileged helper starts them.
    """
    processes = [
        each.name
        for each in configuration.tracks
        if isinstance(each, ProcessTrack) and each.executable is not None
    ]
    if processes:
        yield f"only root sees what a process executes, as the track {processes[0]} wants"
    metrics = configuration.daemon.metrics
    if metrics is not None and metrics.path is None and metrics.port < _first_free_port():
        yield f"only root may listen at port {metrics.port}, as metrics is set"


def _first_free_port() -> int:
    """The first port for which no capability is needed, in this network namespace."""
    try:
        return int(FREE_PORTS.read_text())
    except (OSError, ValueError):
        return USUAL_FREE_PORT


def _give(directories: Directories, configuration: Configuration, user: User) -> Obstacle | None:
    """Gives a user the directories that it may not use; if one cannot be given, none is."""
    given: list[Directory] = []
    for key, directory in _not_usable(directories, configuration, user):
        try:
            directory.give(user)
        except OSError as error:
            for each in given:
                with contextlib.suppress(OSError):
                    each.give(User("root", ROOT, ROOT))
            text = f"{directory.path} cannot be given to {user}: {error.strerror}"
            return Obstacle(text, key=key)
        given.append(directory)
    return None


def _become(
    user: User,
    configuration: Configuration,
    pid_file: Path | None,
    directories: Directories,
    *,
    succeeds: bool,
) -> Privileges:
    settings = configuration.daemon
    with contextlib.ExitStack() as stack:
        privileges = stack.enter_context(Privileges(pid_file, succeeds=succeeds))
        privileges.drop_to(user, groups=_groups(settings, user), bpf=_uses_bpf(settings))
        logger.info("became %s", user)
        if not has_functions(configuration):
            privileges.confine(directory.path for _, directory in directories)
        stack.pop_all()
    return privileges


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


def _directories(settings: Daemon) -> Directories:
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


def _not_usable(directories: Directories, configuration: Configuration, user: User) -> Directories:
    """Those of these directories that the user may not use as they are. Raises OSError."""
    with acting_as(user, _groups(configuration.daemon, user)):
        return [(key, each) for key, each in directories if not each.is_usable()]


def _settings(configuration: Configuration) -> list[Settings]:
    """The settings of virtual hosts, each once."""
    return list({id(each.settings): each.settings for each in configuration.virtual_hosts}.values())


def require_user(configuration: Configuration, uid: int) -> None:
    """Raises StartError unless a daemon of root becomes the user of this number."""
    user = configuration.daemon.user or usual_user() or User("root", ROOT, ROOT)
    if user.uid != uid:
        text = f"the daemon is uid {uid}, and with the configuration as it is now it would be"
        raise StartError(f"{text} {user}; restart it instead")


def not_as_before(one: Configuration, other: Configuration) -> list[str]:
    """What differs of that which decides what a daemon may do as its user, each by its name."""

    def decides(configuration: Configuration) -> dict[str, object]:
        places = {f"daemon.{key}": each.path for key, each in _directories(configuration.daemon)}
        return {**places, "hooks that are functions": has_functions(configuration)}

    before, now = decides(one), decides(other)
    return [key for key in {**before, **now} if before.get(key) != now.get(key)]


def has_functions(configuration: Configuration) -> bool:
    """Whether hooks are functions, which the daemon itself calls."""
    hooks = [target for each in _settings(configuration) for target in (each.up, each.down)]
    return any(each is not None and not each.startswith("/") for each in hooks)


def _files(configuration: Configuration) -> list[Path]:
    """The files that tracks read; the helper has those of the configuration read."""
    found = []
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
