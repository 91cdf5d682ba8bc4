"""The digests of _auth, in both forms, against `cryptography` and hashlib.

Whether the comparison takes constant time cannot be tested here; that it is right, can.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.hmac import HMAC
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carp_fast.engine import _auth

keys = st.binary(min_size=1, max_size=20)
messages = st.binary(max_size=300)
counters = st.binary(min_size=8, max_size=8)
each_form = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)


@pytest.fixture(params=["sha-ni", "portable"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both forms of SHA-1 in turn; the one chosen at import comes back afterwards."""
    if _auth.choose(accelerated=request.param == "sha-ni") != request.param:
        pytest.skip("this CPU lacks the SHA extensions")
    yield request.param
    assert _auth.choose() == _auth.SHA1_FORM


def by_cryptography(key: bytes, message: bytes) -> bytes:
    context = HMAC(key.ljust(20, b"\0"), SHA1())
    context.update(message)
    return context.finalize()


@each_form
@given(keys, messages, counters)
def test_signs_as_cryptography_and_hashlib(
    form: str, key: bytes, message: bytes, counter: bytes
) -> None:
    digest = _auth.Key(key, message).sign(counter)
    assert digest == by_cryptography(key, message + counter)
    assert digest == hmac.new(key.ljust(20, b"\0"), message + counter, hashlib.sha1).digest()


@pytest.mark.parametrize("length", range(0, 140))
def test_signs_every_length_around_the_blocks(form: str, length: int) -> None:
    # 47 and 48 constant bytes: whether the padding fits; 56, 64, 120, 128: block borders.
    message, counter = bytes(range(length)), b"\xff" * 8
    assert _auth.Key(b"secret", message).sign(counter) == by_cryptography(
        b"secret", message + counter
    )


@each_form
@given(keys, messages, counters)
def test_accepts_the_right_digest(form: str, key: bytes, message: bytes, counter: bytes) -> None:
    assert _auth.Key(key, message).verify(counter, by_cryptography(key, message + counter))


@each_form
@given(keys, messages, counters, st.integers(0, 159))
def test_refuses_a_digest_with_any_one_bit_wrong(
    form: str, key: bytes, message: bytes, counter: bytes, bit: int
) -> None:
    digest = int.from_bytes(by_cryptography(key, message + counter), "big") ^ 1 << bit
    assert not _auth.Key(key, message).verify(counter, digest.to_bytes(20, "big"))


@each_form
@given(keys, messages, counters, st.integers(0, 63))
def test_refuses_another_counter(
    form: str, key: bytes, message: bytes, counter: bytes, bit: int
) -> None:
    prepared = _auth.Key(key, message)
    other = (int.from_bytes(counter, "big") ^ 1 << bit).to_bytes(8, "big")
    assert not prepared.verify(other, prepared.sign(counter))


@given(keys, keys, messages, counters)
def test_two_passphrases_agree_only_when_padding_makes_them_one(
    one: bytes, other: bytes, message: bytes, counter: bytes
) -> None:
    same = one.ljust(20, b"\0") == other.ljust(20, b"\0")
    digest = _auth.Key(one, message).sign(counter)
    assert _auth.Key(other, message).verify(counter, digest) is same


@given(st.binary(max_size=40))
def test_refuses_a_digest_or_counter_of_another_length(data: bytes) -> None:
    key = _auth.Key(b"secret", b"")
    if len(data) != 20:
        assert key.verify(b"\0" * 8, data) is False
    if len(data) != 8:
        assert key.verify(data, key.sign(b"\0" * 8)) is False
        with pytest.raises(ValueError, match="8 bytes"):
            key.sign(data)


@pytest.mark.parametrize("passphrase", [b"", b"x" * 21])
def test_refuses_a_passphrase_of_another_length(passphrase: bytes) -> None:
    with pytest.raises(ValueError, match=f"not {len(passphrase)}"):
        _auth.Key(passphrase, b"")


def test_self_test_holds_in_this_form(form: str) -> None:
    _auth.self_test()


@each_form
@given(st.lists(st.tuples(keys, messages, counters), max_size=4))
def test_digests_computed_together_are_those_of_hashlib(
    form: str, signed: list[tuple[bytes, bytes, bytes]]
) -> None:
    expected = [
        hmac.new(key.ljust(20, b"\0"), message + counter, hashlib.sha1).digest()
        for key, message, counter in signed
    ]
    together = [(_auth.Key(key, message), counter) for key, message, counter in signed]
    assert _auth.sign_many(together) == expected


@each_form
@given(st.lists(st.tuples(keys, messages, counters, st.integers(-1, 159)), max_size=4))
def test_each_of_several_digests_is_judged_by_itself(
    form: str, sent: list[tuple[bytes, bytes, bytes, int]]
) -> None:
    together = []
    for key, message, counter, wrong_bit in sent:
        prepared = _auth.Key(key, message)
        digest = int.from_bytes(by_cryptography(key, message + counter), "big")
        digest ^= 1 << wrong_bit if wrong_bit >= 0 else 0
        together.append((prepared, counter, digest.to_bytes(20, "big")))
    assert _auth.verify_many(together) == [wrong_bit < 0 for *_, wrong_bit in sent]


@pytest.mark.parametrize("length", range(0, 140))
def test_every_length_is_signed_beside_others(form: str, length: int) -> None:
    lengths = (length, 7, 48, length)
    messages = [bytes(range(count)) for count in lengths]
    counter = b"\xff" * 8
    together = [(_auth.Key(b"secret", message), counter) for message in messages]
    expected = [by_cryptography(b"secret", message + counter) for message in messages]
    assert _auth.sign_many(together) == expected


def test_refuses_more_digests_at_once_than_there_is_room_for() -> None:
    with pytest.raises(ValueError, match="5 messages, at most 4"):
        _auth.sign_many([(_auth.Key(b"secret", b""), bytes(8))] * 5)
    with pytest.raises(ValueError, match="8 bytes"):
        _auth.sign_many([(_auth.Key(b"secret", b""), bytes(7))])
    with pytest.raises(ValueError, match="20 bytes"):
        _auth.verify_many([(_auth.Key(b"secret", b""), bytes(8), bytes(19))])


@given(keys, messages, counters)
def test_a_passphrase_without_its_text_signs_alike(
    key: bytes, message: bytes, counter: bytes
) -> None:
    buffer = bytearray(key)
    passphrase = _auth.Passphrase(buffer)
    buffer[:] = bytes(len(buffer))  # it was not kept
    expected = _auth.Key(key, message).sign(counter)
    assert _auth.Key(passphrase, message).sign(counter) == expected


@given(keys, keys)
def test_passphrases_are_equal_if_their_keys_are(one: bytes, other: bytes) -> None:
    first, second = _auth.Passphrase(one), _auth.Passphrase(memoryview(other))
    same = one.ljust(20, b"\0") == other.ljust(20, b"\0")
    assert (first == second) is same
    assert not same or hash(first) == hash(second)
    assert first == _auth.Passphrase(one)
    assert first != one  # nothing says whether the text is the same
    assert repr(first) == "Passphrase(hidden)"


@given(keys)
def test_a_passphrase_made_of_its_midstates_is_the_same(key: bytes) -> None:
    passphrase = _auth.Passphrase(key)
    again = _auth.Passphrase.from_midstates(passphrase.midstates)
    assert again == passphrase
    assert _auth.Key(again, b"m").sign(bytes(8)) == _auth.Key(key, b"m").sign(bytes(8))


def test_refuses_midstates_of_another_length() -> None:
    with pytest.raises(ValueError, match="40 bytes, not 39"):
        _auth.Passphrase.from_midstates(bytes(39))


@pytest.mark.parametrize("wrong", [b"", b"x" * 21, memoryview(b"")])
def test_refuses_to_seal_a_passphrase_of_another_length(wrong: bytes | memoryview) -> None:
    with pytest.raises(ValueError, match=f"not {len(wrong)}"):
        _auth.Passphrase(wrong)


def test_a_passphrase_is_bytes_not_text() -> None:
    with pytest.raises(TypeError):
        _auth.Passphrase("secret")  # type: ignore[arg-type]
