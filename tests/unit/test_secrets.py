"""Keys, tokens and passphrase files: what is accepted, what is refused, and that nothing leaks."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.config import secrets
from carp_fast.config.secrets import KeyMissing, Passphrases, SecretError
from carp_fast.engine._auth import Passphrase


@pytest.fixture
def key(tmp_path: Path) -> bytes:
    path = tmp_path / "key"
    secrets.create_key(path)
    return secrets.read_key(path)


def private(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_a_key_is_created_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        secrets.create_key(tmp_path / "key")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_an_existing_key_is_not_overwritten(tmp_path: Path) -> None:
    path = private(tmp_path / "key", b"precious")
    with pytest.raises(SecretError) as caught:
        secrets.create_key(path)
    assert str(caught.value) == f"{path}: exists already and is not overwritten"
    assert path.read_bytes() == b"precious"


def test_a_key_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none" / "key"
    with pytest.raises(SecretError) as caught:
        secrets.create_key(path)
    assert str(caught.value) == f"{path}: cannot be created: No such file or directory"


def test_two_keys_differ(tmp_path: Path) -> None:
    for name in ("one", "two"):
        secrets.create_key(tmp_path / name)
    assert secrets.read_key(tmp_path / "one") != secrets.read_key(tmp_path / "two")


@given(st.binary(min_size=1, max_size=19).filter(lambda text: b"\0" not in text))
def test_every_passphrase_survives_encryption(passphrase: bytes) -> None:
    key = b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    text = secrets.encrypt(passphrase, key)
    assert text.startswith("encrypted:")
    assert secrets.decrypt(text, key) == passphrase


@pytest.mark.parametrize(
    ("passphrase", "reason"),
    [
        (b"", "the passphrase is empty; allowed: 1 to 19 bytes"),
        (b"x" * 20, "the passphrase has 20 bytes; allowed: 1 to 19 bytes"),
        (b"a\0b", "the passphrase holds a NUL byte; allowed: any other bytes"),
    ],
)
def test_a_passphrase_that_no_peer_could_use_is_not_encrypted(
    key: bytes, passphrase: bytes, reason: str
) -> None:
    with pytest.raises(SecretError) as caught:
        secrets.encrypt(passphrase, key)
    assert str(caught.value) == reason


def test_decrypting_with_another_key_or_a_damaged_token(key: bytes, tmp_path: Path) -> None:
    text = secrets.encrypt(b"swordfish", key)
    secrets.create_key(tmp_path / "other")
    reason = "cannot be decrypted: the token is damaged or was made with another key"
    for damaged, used in (
        (text, secrets.read_key(tmp_path / "other")),
        (text[:-8], key),
        ("encrypted:", key),
        ("encrypted:\u00fc", key),
    ):
        with pytest.raises(SecretError) as caught:
            secrets.decrypt(damaged, used)
        assert str(caught.value) == reason
    with pytest.raises(SecretError, match="does not begin with encrypted:"):
        secrets.decrypt("swordfish", key)


@pytest.mark.parametrize("content", [b"", b"short\n", b"!" * 44, b"QUJD\n"])
def test_what_is_not_a_key(tmp_path: Path, content: bytes) -> None:
    path = private(tmp_path / "key", content)
    with pytest.raises(SecretError) as caught:
        secrets.read_key(path)
    assert str(caught.value) == (
        f"{path}: is not a key; allowed: one made by `carp-fast secret key FILE`"
    )


@pytest.mark.parametrize(
    ("mode", "gid", "open_to_others"),
    [
        (0o600, 5, False),
        (0o400, 5, False),
        (0o640, 0, False),
        (0o640, 5, True),
        (0o604, 0, True),
        (0o644, 0, True),
        (0o620, 5, False),
    ],
)
def test_who_counts_as_others(mode: int, gid: int, open_to_others: bool) -> None:
    status = os.stat_result((stat.S_IFREG | mode, 0, 0, 1, 0, gid, 0, 0, 0, 0))
    assert secrets.readable_by_others(status) is open_to_others


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "key"
    secrets.create_key(path)
    path.chmod(0o644)
    with pytest.raises(SecretError) as caught:
        secrets.read_key(path)
    assert str(caught.value) == (
        f"{path}: others may read it (mode 0644, gid {path.stat().st_gid});"
        " allowed: mode 0600, or 0640 with group root"
    )


@pytest.mark.parametrize("content", [b"abc", b"abc\n", b"abc\r\n", b"abc\nsecond line\n"])
def test_the_first_line_of_a_passphrase_file(tmp_path: Path, content: bytes) -> None:
    path = private(tmp_path / "secret", content)
    assert Passphrases(None).from_file(path) == b"abc"


def test_spaces_belong_to_the_passphrase(tmp_path: Path) -> None:
    path = private(tmp_path / "secret", b" a b \n")
    assert Passphrases(None).from_file(path) == b" a b "


def test_a_file_that_cannot_be_a_passphrase_file(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path, reason in (
        (tmp_path, "cannot be read: Is a directory"),
        (fifo, "is not a regular file"),
        (tmp_path / "none", "cannot be read: No such file or directory"),
        (private(tmp_path / "long", b"x" * 4097), "is longer than 4096 bytes"),
        (
            private(tmp_path / "empty", b"\nsecond\n"),
            "the passphrase is empty; allowed: 1 to 19 bytes",
        ),
    ):
        with pytest.raises(SecretError) as caught:
            Passphrases(None).from_file(path)
        assert caught.value.text == reason


def test_a_passphrase_file_is_read_once(tmp_path: Path) -> None:
    path = private(tmp_path / "secret", b"abc\n")
    passphrases = Passphrases(None)
    assert passphrases.from_file(path) == b"abc"
    path.unlink()
    assert passphrases.from_file(path) == b"abc"


def test_a_file_may_hold_a_token(tmp_path: Path, key: bytes) -> None:
    path = private(tmp_path / "secret", secrets.encrypt(b"abc", key).encode() + b"\n")
    assert Passphrases(key).from_file(path) == b"abc"
    with pytest.raises(KeyMissing):
        Passphrases(None).from_file(path)


def test_credentials_are_read_from_the_managers_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: bytes
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert secrets.read_key_credential() is None
    with pytest.raises(SecretError, match="CREDENTIALS_DIRECTORY is not set"):
        Passphrases(None).from_credential("carp")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert secrets.read_key_credential() is None
    (tmp_path / "carp-fast.key").write_bytes(key)
    assert secrets.read_key_credential() == key
    # systemd shows an ACL's mask as the group's mode: that is no fault of a credential.
    (tmp_path / "carp").write_bytes(b"abc\n")
    (tmp_path / "carp").chmod(0o440)
    assert Passphrases(None).from_credential("carp") == b"abc"
    for name in ("", ".", "..", "../secret", "a/b"):
        with pytest.raises(SecretError, match="is not the name of a credential"):
            Passphrases(None).from_credential(name)


def test_cryptography_is_loaded_only_for_tokens(tmp_path: Path) -> None:
    path = private(tmp_path / "secret", b"abc\n")
    script = (
        "import sys, pathlib\n"
        "from carp_fast.config.secrets import Passphrases\n"
        "assert Passphrases(None).from_file(pathlib.Path(sys.argv[1])) == b'abc'\n"
        "sys.exit('cryptography' in sys.modules)\n"
    )
    argv = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(argv, check=False, cwd=Path(secrets.__file__).parents[2])
    assert done.returncode == 0


def test_sealed_passphrases_are_without_their_text(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_bytes(b"swordfish\r\nsecond line\n")
    sealed = Passphrases(key, sealed=True)
    expected = Passphrase(b"swordfish")
    assert sealed.from_file(path) == expected
    assert sealed.from_text("swordfish") == expected
    assert sealed.from_text(secrets.encrypt(b"swordfish", key)) == expected
    assert Passphrases(key).from_file(path) == b"swordfish"


@pytest.mark.parametrize("size", [1, 2, 18, secrets.SECRET_FILE_BYTES])
def test_what_a_file_held_is_overwritten_where_it_was_read(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "passphrase"
    path.touch(mode=0o600)
    path.write_bytes(b"x" * size)
    seen: list[bytearray] = []

    def overwrite(content: bytearray) -> None:
        assert bytes(content) == b"x" * size
        real(content)
        seen.append(content)

    real = secrets.overwrite
    monkeypatch.setattr(secrets, "overwrite", overwrite)
    reader = Passphrases(None, sealed=True)
    if size <= secrets.PASSPHRASE_BYTES:
        assert reader.from_file(path) == Passphrase(b"x" * size)
    else:
        with pytest.raises(SecretError):
            reader.from_file(path)
    assert [bytes(content) for content in seen] == [bytes(size)]
