"""Files of the state directory: named by the configuration, read without waiting, replaced whole.

Two daemons may share a host and a state directory, so each configuration has its own files. Must
not know what they hold.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from pathlib import Path

from carp_fast.config.readings import open_without_waiting

# Whatever the umask: root and the daemon's user may each go on with what the other left, as members
# of the service's group. No secret is in them.
MODE = 0o640


def state_name(kind: str, configuration: str) -> str:
    """The name of the file that holds `kind` for the configuration with this absolute path."""
    return f"{kind}-{hashlib.sha256(os.fsencode(configuration)).hexdigest()[:16]}.json"


def state_path(directory: Path, kind: str, configuration: Path) -> Path:
    """The file that holds `kind` for a configuration.

    Its name is derived from the path as given, since a link may lead to another file at the next
    start.
    """
    # abspath() does not follow links; Path.resolve() would.
    return directory / state_name(kind, os.path.abspath(configuration))  # noqa: PTH100


def content_of(path: Path) -> bytes:
    """The content of a file; a pipe without data has none. Raises OSError."""
    with open(path, "rb", opener=open_without_waiting) as file:
        return file.read() or b""  # None: a pipe without data


def replace_file(path: Path, content: bytes) -> None:
    """Replaces the whole file, or leaves it as it is; on return the disk has it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    try:
        with open(fresh, "wb") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    _sync_directory(path.parent)


def remove_file(path: Path) -> None:
    """Removes the file, if it is there; on return the disk has that. Raises OSError."""
    path.unlink(missing_ok=True)
    if path.parent.exists():
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot do this for a directory
            raise
    finally:
        os.close(descriptor)
