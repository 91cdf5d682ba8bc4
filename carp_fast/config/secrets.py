"""Passphrases and the key that encrypts them: files, systemd credentials, Fernet tokens.

What is read from a file is overwritten once the passphrase has been made from it. Must not know
TOML, tables or virtual hosts. No error raised here contains any part of a passphrase or a key.
`cryptography` is imported only to encrypt or decrypt.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from io import FileIO
from pathlib import Path

from carp_fast.config import strength
from carp_fast.config.readings import Readings, open_without_waiting
from carp_fast.engine._auth import Passphrase
from carp_fast.errors import CarpFastError

PASSPHRASE_BYTES = 19  # the digest's key is a 20-byte field that ends in NUL
SECRET_FILE_BYTES = 4096  # longest passphrase or key file; a longer one is refused
FERNET_KEY_BYTES = 32
ESTIMATED_MAX = 1000  # passphrases of a configuration: more would take seconds
ENCRYPTED_PREFIX = "encrypted:"
KEY_CREDENTIAL = "carp-fast.key"

Text = bytes | memoryview


class SecretError(CarpFastError):
    """Raised when a passphrase or key cannot be used: one line, with the path of its file if any.

    `text`: the line without the path.
    """

    def __init__(self, text: str, path: Path | None = None) -> None:
        super().__init__(text if path is None else f"{path}: {text}")
        self.text = text
        self.path = path


class KeyMissing(SecretError):
    """Raised when a passphrase is encrypted and there is no key to decrypt it with."""


class CredentialsMissing(SecretError):
    """Raised when a passphrase is a credential and this process was not given any by systemd."""


def credentials_directory() -> Path | None:
    """Where systemd put the credentials of this service; None for a process of another kind."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) if directory else None


def readable_by_others(status: os.stat_result) -> bool:
    """True if others may read the file, or a group other than root.

    Group root may read it: usually only root is a member, and packages often install secrets as
    root:root 0640.
    """
    if status.st_mode & stat.S_IROTH:
        return True
    return bool(status.st_mode & stat.S_IRGRP) and status.st_gid != 0


def create_key(path: Path) -> None:
    """Writes a new Fernet key to `path`, mode 0600; an existing file is never overwritten."""
    from cryptography.fernet import Fernet

    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise SecretError("exists already and is not overwritten", path) from None
    except OSError as error:
        raise SecretError(f"cannot be created: {error.strerror}", path) from None
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(Fernet.generate_key() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # A partial key left behind would not be overwritten by the next attempt.
        path.unlink(missing_ok=True)
        raise SecretError(f"cannot be written: {error.strerror}", path) from None


def read_key(path: Path, readings: Readings | None = None) -> bytes:
    """The Fernet key in `path`: 44 base64 characters.

    The file is noted in `readings`. Raises SecretError, also for a file that others may read.
    """
    return _read_key(path, readings, private=True)


def read_key_credential(readings: Readings | None = None) -> bytes | None:
    """The key in the systemd credential "carp-fast.key"; None if there is no such credential.

    Raises SecretError.
    """
    directory = credentials_directory()
    if directory is None:
        return None
    path = directory / KEY_CREDENTIAL
    try:
        path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        pass  # it exists; reading it raises the error
    return _read_key(path, readings, private=False)


def encrypt(passphrase: bytes, key: bytes) -> str:
    """`passphrase` (1 to 19 bytes) as "encrypted:TOKEN" for a configuration. Raises SecretError."""
    from cryptography.fernet import Fernet

    check_passphrase(passphrase)
    return ENCRYPTED_PREFIX + Fernet(_checked_key(key, None)).encrypt(passphrase).decode("ascii")


def decrypt(text: str, key: bytes) -> bytes:
    """The passphrase in "encrypted:TOKEN". Raises SecretError if the token does not fit the key."""
    from cryptography.fernet import Fernet, InvalidToken

    if not text.startswith(ENCRYPTED_PREFIX):
        raise SecretError(f"does not begin with {ENCRYPTED_PREFIX}")
    fernet = Fernet(_checked_key(key, None))
    try:
        return fernet.decrypt(text[len(ENCRYPTED_PREFIX) :].encode("utf-8"))
    except InvalidToken:
        raise SecretError(
            "cannot be decrypted: the token is damaged or was made with another key"
        ) from None


def check_passphrase(passphrase: Text) -> None:
    """Raises SecretError unless every CARP implementation can use the passphrase."""
    if not passphrase:
        raise SecretError(f"the passphrase is empty; allowed: 1 to {PASSPHRASE_BYTES} bytes")
    if len(passphrase) > PASSPHRASE_BYTES:
        raise SecretError(
            f"the passphrase has {len(passphrase)} bytes; allowed: 1 to {PASSPHRASE_BYTES} bytes"
        )
    if 0 in passphrase:
        raise SecretError("the passphrase holds a NUL byte; allowed: any other bytes")


class Passphrases:
    """Reads passphrases; each file, credential and token is read only once.

    `key`: the Fernet key for encrypted passphrases, or None; each file is noted in `readings`.
    `sealed`: passphrases are given without their text, of which nothing that this reads from a
    file stays in memory.
    """

    def __init__(
        self, key: bytes | None, readings: Readings | None = None, *, sealed: bool = False
    ) -> None:
        self._key = key
        self._readings = readings
        self._sealed = sealed
        self._found: dict[Path | str, bytes | Passphrase] = {}
        self._seconds: dict[bytes | Passphrase, float] = {}

    def from_text(self, text: str) -> bytes | Passphrase:
        """The passphrase written as `text`, which may be "encrypted:TOKEN"."""
        if text not in self._found:
            self._found[text] = self._plain(text.encode("utf-8"))
        return self._found[text]

    def from_file(self, path: Path) -> bytes | Passphrase:
        """The first line of a file that others may not read, without its line end."""
        return self._first_line(path, private=True)

    def from_credential(self, name: str) -> bytes | Passphrase:
        """The first line of a systemd credential of this service."""
        if not name or "/" in name or "\0" in name or name in {".", ".."}:
            raise SecretError("is not the name of a credential; allowed: a file name without '/'")
        directory = credentials_directory()
        if directory is None:
            raise CredentialsMissing(
                "there are no credentials: $CREDENTIALS_DIRECTORY is not set;"
                " allowed: a credential of the service that systemd runs"
            )
        # systemd keeps credentials from others itself; their mode shows an ACL's mask.
        return self._first_line(directory / name, private=False)

    def guessed_in_s(self, passphrase: bytes | Passphrase) -> float | None:
        """How long a laptop needs to guess a passphrase that this has read; None: not estimated,
        as it was not among the first ESTIMATED_MAX.
        """
        return self._seconds.get(passphrase)

    def _first_line(self, path: Path, *, private: bool) -> bytes | Passphrase:
        if path not in self._found:
            content = _read(path, self._readings, private=private)
            try:
                end = content.find(b"\n")
                end = len(content) if end < 0 else end
                end -= content.endswith(b"\r", 0, end)
                with memoryview(content) as whole, whole[:end] as line:
                    self._found[path] = self._plain(line)
            finally:
                overwrite(content)
        return self._found[path]

    def _plain(self, text: Text) -> bytes | Passphrase:
        """The passphrase in `text`, which the caller may overwrite afterwards."""
        passphrase = text
        if text[: len(ENCRYPTED_PREFIX)] == ENCRYPTED_PREFIX.encode():
            if self._key is None:
                raise KeyMissing(
                    "the passphrase is encrypted and there is no key; allowed: a key in"
                    f" daemon.secret_key_file or the systemd credential {KEY_CREDENTIAL}"
                )
            passphrase = decrypt(bytes(text).decode("utf-8", "replace"), self._key)
        check_passphrase(passphrase)
        made = Passphrase(passphrase) if self._sealed else bytes(passphrase)
        if made not in self._seconds and len(self._seconds) < ESTIMATED_MAX:
            self._seconds[made] = strength.seconds(passphrase)
        return made


def overwrite(content: bytearray) -> None:
    """Overwrites a secret with zeros, in its place."""
    content[:] = bytes(len(content))


def _read_key(path: Path, readings: Readings | None, *, private: bool) -> bytes:
    content = _read(path, readings, private=private)
    try:
        return _checked_key(content, path)
    finally:
        overwrite(content)


def _checked_key(content: bytes | bytearray, path: Path | None) -> bytes:
    key = bytes(content.strip())
    try:
        length = len(base64.b64decode(key, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if length != FERNET_KEY_BYTES:
        raise SecretError("is not a key; allowed: one made by `carp-fast secret key FILE`", path)
    return key


def _read(path: Path, readings: Readings | None, *, private: bool) -> bytearray:
    """The content of a file, of which no other copy is made."""
    if readings is not None:
        readings.expect(path)
    # Mode and type are those of the open file, so that it cannot be exchanged between check and
    # read.
    try:
        with open(path, "rb", buffering=0, opener=open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SecretError("is not a regular file", path)
            if private and readable_by_others(status):
                raise SecretError(
                    f"others may read it (mode {stat.S_IMODE(status.st_mode):04o},"
                    f" gid {status.st_gid}); allowed: mode 0600, or 0640 with group root",
                    path,
                )
            content = _read_all(file, min(status.st_size or SECRET_FILE_BYTES, SECRET_FILE_BYTES))
    except OSError as error:
        raise SecretError(f"cannot be read: {error.strerror}", path) from None
    if len(content) > SECRET_FILE_BYTES:
        raise SecretError(f"is longer than {SECRET_FILE_BYTES} bytes", path)
    if readings is not None:
        readings.note(path, status, content)
    return content


def _read_all(file: FileIO, size: int) -> bytearray:
    """Up to `size` + 1 bytes. Cutting off less than half of a bytearray does not move it."""
    content, read = bytearray(size + 1), 0
    with memoryview(content) as room:
        while read < len(content) and (count := file.readinto(room[read:])):
            read += count
    del content[read:]
    return content
