"""HMAC-SHA1 over an advertisement: prepare once, then sign and verify in two compressions.

Everything before the counter is constant for a virtual host, so its SHA-1 states after ipad
(and any further whole block) and after opad are kept. This module handles bytes only: no packet
layout, socket, clock or file. The digest is that of carp_hmac_prepare / carp_hmac_generate in the
BSDs' ip_carp.c; the key is a passphrase in a 20-byte field padded with NUL.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

cdef extern from "sha1.h" nogil:
    void sha1_compress(uint32_t* state, const uint8_t* block) noexcept
    struct sha1_ending:
        const uint32_t* inner
        const uint32_t* outer
        const uint8_t* block
        const uint8_t* counter
        uint8_t* digest
        uint32_t at
    const uint32_t SHA1_NO_COUNTER
    void sha1_end(sha1_ending* endings, uint32_t count) noexcept
    int sha1_choose(int want_ni)
    void sha1_forget(void* secret, size_t length) noexcept


cdef inline void put32(uint8_t* p, uint32_t x) noexcept nogil:
    p[0] = x >> 24
    p[1] = (x >> 16) & 0xff
    p[2] = (x >> 8) & 0xff
    p[3] = x & 0xff


cdef inline void start(uint32_t* state) noexcept nogil:
    state[0] = 0x67452301
    state[1] = 0xefcdab89
    state[2] = 0x98badcfe
    state[3] = 0x10325476
    state[4] = 0xc3d2e1f0


cdef void auth_start(KeyStates* states, const uint8_t* secret) noexcept nogil:
    """Fill `states` for the 20-byte `secret`, of which nothing is left on the stack."""
    cdef uint8_t pad[64]
    cdef uint32_t scratch[5]
    cdef uint32_t i
    memset(pad, 0x36, 64)
    for i in range(KEY_LENGTH):
        pad[i] ^= secret[i]
    start(states.inner)
    sha1_compress(states.inner, pad)
    memset(pad, 0x5c, 64)
    for i in range(KEY_LENGTH):
        pad[i] ^= secret[i]
    start(states.outer)
    sha1_compress(states.outer, pad)
    sha1_forget(pad, sizeof(pad))
    start(scratch)
    sha1_compress(scratch, pad)          # in the same place as those that copied the secret


cdef void auth_continue(AuthKey* key, const KeyStates* states, const uint8_t* message,
                        uint32_t length) noexcept nogil:
    """Fill `key` for a passphrase's `states` and the constant `message` before the counter."""
    cdef uint32_t i, whole = length & ~<uint32_t>63
    memcpy(key.inner, states.inner, sizeof(key.inner))
    memcpy(key.outer, states.outer, sizeof(key.outer))
    for i in range(0, whole, 64):
        sha1_compress(key.inner, message + i)
    key.hashed = 64 + whole
    key.tail_length = <uint8_t>(length - whole)
    memset(key.tail, 0, sizeof(key.tail))
    memcpy(key.tail, message + whole, key.tail_length)
    if fits(key):
        key.tail[key.tail_length + COUNTER_LENGTH] = 0x80
        put32(key.tail + 60, (key.hashed + key.tail_length + COUNTER_LENGTH) * 8)


cdef void auth_prepare(AuthKey* key, const uint8_t* secret, const uint8_t* message,
                       uint32_t length) noexcept nogil:
    """Fill `key` for the 20-byte `secret` and the constant `message` before the counter."""
    cdef KeyStates states
    auth_start(&states, secret)
    auth_continue(key, &states, message, length)


cdef inline bint fits(const AuthKey* key) noexcept nogil:
    """Whether the counter and the padding fit into the block that the constant bytes begin."""
    return key.tail_length + COUNTER_LENGTH < 56


cdef struct Room:                   # for the blocks of a message whose padding needs another one
    uint8_t block[128]
    uint32_t state[5]


cdef inline void put_ending(sha1_ending* ending, Room* room, const AuthKey* key,
                            const uint8_t* counter, uint8_t* digest) noexcept nogil:
    """What remains to be hashed: the constant bytes, the counter, the padding."""
    ending.inner = &key.inner[0]
    ending.outer = &key.outer[0]
    ending.block = &key.tail[0]
    ending.at, ending.counter, ending.digest = key.tail_length, counter, digest
    if not fits(key):
        put_long_ending(ending, room, key)


cdef void put_long_ending(sha1_ending* ending, Room* room, const AuthKey* key) noexcept nogil:
    """The padding does not fit into the block with the counter: hash that block here."""
    cdef uint32_t used = key.tail_length + COUNTER_LENGTH
    memcpy(room.block, key.tail, key.tail_length)
    memcpy(room.block + key.tail_length, ending.counter, COUNTER_LENGTH)
    memset(room.block + used, 0, sizeof(room.block) - used)
    room.block[used] = 0x80
    put32(room.block + 124, (key.hashed + used) * 8)
    memcpy(room.state, key.inner, sizeof(room.state))
    sha1_compress(room.state, room.block)
    ending.inner, ending.block, ending.at = room.state, room.block + 64, SHA1_NO_COUNTER


cdef void auth_sign(const AuthKey* key, const uint8_t* counter, uint8_t* digest) noexcept nogil:
    """Write the 20-byte HMAC-SHA1 of the prepared message and the 8-byte `counter`."""
    cdef Room room
    cdef sha1_ending ending
    put_ending(&ending, &room, key, counter, digest)
    sha1_end(&ending, 1)


cdef void put_endings(sha1_ending* endings, Room* rooms, const Signature* signatures,
                      uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        put_ending(&endings[i], &rooms[i], signatures[i].key, signatures[i].counter,
                   signatures[i].digest)


cdef void auth_sign_many(const Signature* signatures, uint32_t count) noexcept nogil:
    """Write the digests of `count` messages, at most TOGETHER."""
    cdef Room rooms[TOGETHER]
    cdef sha1_ending endings[TOGETHER]
    put_endings(endings, rooms, signatures, count)
    sha1_end(endings, count)


cdef inline bint equal(const uint8_t* one, const uint8_t* other) noexcept nogil:
    """Whether two digests are equal, in a time that does not depend on where they differ."""
    cdef uint64_t[2] first
    cdef uint64_t[2] second
    cdef uint32_t first_end, second_end
    memcpy(first, one, 16)
    memcpy(second, other, 16)
    memcpy(&first_end, one + 16, 4)
    memcpy(&second_end, other + 16, 4)
    return ((first[0] ^ second[0]) | (first[1] ^ second[1]) | (first_end ^ second_end)) == 0


cdef bint auth_verify(const AuthKey* key, const uint8_t* counter,
                      const uint8_t* digest) noexcept nogil:
    """Whether `digest` is right for the prepared message and the 8-byte `counter`."""
    cdef uint8_t expected[20]
    auth_sign(key, counter, expected)
    return equal(expected, digest)


cdef void auth_verify_many(const Signature* signatures, uint32_t count, bint* fit) noexcept nogil:
    """Verify `count` digests, at most TOGETHER; `fit` gets the results."""
    cdef Room rooms[TOGETHER]
    cdef sha1_ending endings[TOGETHER]
    cdef uint8_t expected[TOGETHER][DIGEST_LENGTH]
    cdef uint32_t i
    put_endings(endings, rooms, signatures, count)
    for i in range(count):
        endings[i].digest = expected[i]         # compared, not written
    sha1_end(endings, count)
    for i in range(count):
        fit[i] = equal(expected[i], signatures[i].digest)


cdef class Passphrase:
    """A passphrase in the form that signs, two SHA-1 states: its text cannot be had from it.

    `text`: any object with a buffer of 1 to 20 bytes, which the caller may overwrite afterwards.
    Whoever reads the states can sign, too, but not log in where the same text is a password.
    """

    def __cinit__(self, text):
        cdef Py_buffer view
        cdef uint8_t secret[KEY_LENGTH]
        PyObject_GetBuffer(text, &view, PyBUF_SIMPLE)
        try:
            if not 1 <= view.len <= KEY_LENGTH:
                raise ValueError(f"a passphrase has 1 to {KEY_LENGTH} bytes, not {view.len}")
            memset(secret, 0, sizeof(secret))
            memcpy(secret, view.buf, view.len)
        finally:
            PyBuffer_Release(&view)
        auth_start(&self.states, secret)
        sha1_forget(secret, sizeof(secret))

    def __eq__(self, other):
        if not isinstance(other, Passphrase):
            return NotImplemented
        return memcmp(&self.states, &(<Passphrase>other).states, sizeof(KeyStates)) == 0

    def __hash__(self):
        return hash((self.states.inner[0], self.states.inner[1]))

    def __repr__(self):
        return "Passphrase(hidden)"

    @property
    def midstates(self):
        """Both SHA-1 states, 40 bytes in this machine's order: what from_midstates() takes."""
        return (<const char*>&self.states)[:sizeof(KeyStates)]

    @staticmethod
    def from_midstates(bytes midstates not None):
        """The passphrase with these states. Raises ValueError for another length."""
        if len(midstates) != sizeof(KeyStates):
            raise ValueError(f"midstates have {sizeof(KeyStates)} bytes, not {len(midstates)}")
        cdef Passphrase made = Passphrase.__new__(Passphrase, b"\xff")
        memcpy(&made.states, <const char*>midstates, sizeof(KeyStates))
        return made


cdef Passphrase as_passphrase(passphrase):
    """`passphrase`, bytes or a Passphrase, as the latter. Raises ValueError for a wrong length."""
    return passphrase if isinstance(passphrase, Passphrase) else Passphrase(passphrase)


cdef class Key:
    """A prepared key, for tests, tools and benchmarks; the engine uses the C functions.

    `passphrase`: 1 to 20 bytes, or a Passphrase; `message`: the constant bytes before the counter.
    """
    cdef AuthKey key

    def __init__(self, passphrase, bytes message not None):
        cdef Passphrase prepared = as_passphrase(passphrase)
        auth_continue(&self.key, &prepared.states, message, <uint32_t>len(message))

    def sign(self, bytes counter) -> bytes:
        """The 20-byte digest for the 8-byte `counter`."""
        cdef uint8_t digest[20]
        if len(counter) != COUNTER_LENGTH:
            raise ValueError("a counter has 8 bytes")
        auth_sign(&self.key, counter, digest)
        return (<const char*>digest)[:DIGEST_LENGTH]

    def verify(self, bytes counter, bytes digest) -> bool:
        """Whether the 20-byte `digest` is right for the 8-byte `counter`."""
        if len(counter) != COUNTER_LENGTH or len(digest) != DIGEST_LENGTH:
            return False
        return auth_verify(&self.key, counter, digest)


cdef uint32_t take_signatures(list messages, Signature* signatures) except? 0:
    """Set the keys, counters and, where given, digests of at most TOGETHER tuples; how many."""
    cdef Key key
    cdef bytes counter, digest
    if len(messages) > TOGETHER:
        raise ValueError(f"{len(messages)} messages, at most {TOGETHER}")
    for i, message in enumerate(messages):
        key, counter = message[:2]
        if len(counter) != COUNTER_LENGTH:
            raise ValueError("a counter has 8 bytes")
        signatures[i].key, signatures[i].counter = &key.key, counter
        for digest in message[2:]:
            if len(digest) != DIGEST_LENGTH:
                raise ValueError("a digest has 20 bytes")
            signatures[i].digest = <uint8_t*><char*>digest
    return <uint32_t>len(messages)


def sign_many(list messages not None) -> list:
    """The 20-byte digest of each (Key, 8-byte counter), at most TOGETHER of them."""
    cdef Signature signatures[TOGETHER]
    cdef uint8_t digests[TOGETHER][DIGEST_LENGTH]
    cdef uint32_t i, count = take_signatures(messages, signatures)
    for i in range(count):
        signatures[i].digest = digests[i]
    auth_sign_many(signatures, count)
    return [(<const char*>digests[i])[:DIGEST_LENGTH] for i in range(count)]


def verify_many(list messages not None) -> list:
    """Whether each (Key, 8-byte counter, 20-byte digest) is right, at most TOGETHER of them."""
    cdef Signature signatures[TOGETHER]
    cdef bint fit[TOGETHER]
    cdef uint32_t i, count = take_signatures(messages, signatures)
    auth_verify_many(signatures, count, fit)
    return [bool(fit[i]) for i in range(count)]


def choose(*, bint accelerated=True) -> str:
    """Choose the implementation of SHA-1 for this process: "sha-ni" or "portable".

    Must not be called while a pump runs.
    """
    return "sha-ni" if sha1_choose(accelerated) else "portable"


def self_test() -> None:
    """Check HMAC-SHA1 against RFC 2202, test cases 1 and 3, whose keys have our length.

    Raises RuntimeError if the chosen implementation is wrong: nothing may start then.
    """
    # RFC 2202 case 1: key 20 x 0x0b, data "Hi There"; the last 8 bytes stand for the counter.
    first = Key(b"\x0b" * 20, b""), b"Hi There"
    # RFC 2202 case 3: key 20 x 0xaa, data 50 x 0xdd.
    third = Key(b"\xaa" * 20, b"\xdd" * 42), b"\xdd" * 8
    first_digest = bytes.fromhex("b617318655057264e28bc0b6fb378c8ef146be00")
    third_digest = bytes.fromhex("125d7342b9ac11cd91a39af48aa17b4f63f175d3")
    for count in range(1, TOGETHER + 1):            # every number of digests at once
        some, right = [third] * count, [third_digest] * count
        some[0], right[0] = first, first_digest
        if sign_many(some) != right:
            raise RuntimeError("SHA-1 self-test failed: this CPU or build computes wrong digests")


SHA1_FORM = choose()
self_test()
