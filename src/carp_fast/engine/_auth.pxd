"""HMAC-SHA1 of an advertisement from prepared states: two compressions per digest."""

from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    KEY_LENGTH = 20
    DIGEST_LENGTH = 20
    COUNTER_LENGTH = 8
    TOGETHER = 4            # digests computed at once: each takes less than half of the time

cdef struct KeyStates:
    uint32_t inner[5]       # SHA-1 after ipad
    uint32_t outer[5]       # SHA-1 after opad

cdef struct AuthKey:
    uint32_t inner[5]       # SHA-1 after ipad and every whole block of the constant message
    uint32_t outer[5]       # SHA-1 after opad
    uint32_t hashed         # bytes already in `inner`, ipad's 64 included
    uint8_t tail_length     # constant bytes that did not fill a block: 0 to 63
    # Those bytes. If the counter fits after them: the last block, without the counter.
    uint8_t tail[64]

cdef struct Signature:
    const AuthKey* key
    const uint8_t* counter
    uint8_t* digest         # written by signing, read by verifying

cdef class Passphrase:
    cdef KeyStates states

cdef Passphrase as_passphrase(passphrase)
cdef void auth_continue(AuthKey* key, const KeyStates* states, const uint8_t* message,
                        uint32_t length) noexcept nogil
cdef void auth_prepare(AuthKey* key, const uint8_t* secret, const uint8_t* message,
                       uint32_t length) noexcept nogil
cdef void auth_sign(const AuthKey* key, const uint8_t* counter, uint8_t* digest) noexcept nogil
cdef void auth_sign_many(const Signature* signatures, uint32_t count) noexcept nogil
cdef bint auth_verify(const AuthKey* key, const uint8_t* counter,
                      const uint8_t* digest) noexcept nogil
cdef void auth_verify_many(const Signature* signatures, uint32_t count, bint* fit) noexcept nogil
