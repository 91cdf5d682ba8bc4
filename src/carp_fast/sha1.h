/* SHA-1's compression function, FIPS 180-4 section 6.1.2, and nothing else of SHA-1.
 *
 * Two forms: portable C, and one with the SHA extensions of x86 (SHA-NI). sha1_choose() picks
 * once. Padding and HMAC are the business of _auth.pyx. Knows no key, packet or allocation.
 */
#ifndef CARP_FAST_SHA1_H
#define CARP_FAST_SHA1_H

#include <stdint.h>
#include <string.h>

typedef void (*sha1_compress_t)(uint32_t state[5], const uint8_t block[64]);

static inline uint32_t sha1_rotate(uint32_t x, int n) { return x << n | x >> (32 - n); }

static inline uint32_t sha1_load(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void sha1_compress_portable(uint32_t state[5], const uint8_t block[64])
{
    uint32_t w[16], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int t = 0; t < 80; t++) {
        uint32_t f, k, x;
        if (t < 16)
            x = w[t] = sha1_load(block + 4 * t);
        else
            x = w[t & 15] = sha1_rotate(w[(t + 13) & 15] ^ w[(t + 8) & 15] ^ w[(t + 2) & 15] ^ w[t & 15], 1);
        if (t < 20)
            f = d ^ (b & (c ^ d)), k = 0x5a827999;
        else if (t < 40)
            f = b ^ c ^ d, k = 0x6ed9eba1;
        else if (t < 60)
            f = (b & c) | (d & (b | c)), k = 0x8f1bbcdc;
        else
            f = b ^ c ^ d, k = 0xca62c1d6;
        x += sha1_rotate(a, 5) + f + e + k;
        e = d, d = c, c = sha1_rotate(b, 30), b = a, a = x;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

/* Four rounds: the working state sits in abcd and e; m holds the schedule, four words a vector.
 * sha1rnds4 wants its round constant as an immediate, hence a macro. */
#define SHA1_FOUR(i, constant)                                                               \
    do {                                                                                     \
        if ((i) >= 4)                                                                        \
            m[(i) & 3] = _mm_sha1msg2_epu32(                                                 \
                _mm_xor_si128(_mm_sha1msg1_epu32(m[(i) & 3], m[((i) + 1) & 3]),              \
                              m[((i) + 2) & 3]), m[((i) + 3) & 3]);                          \
        __m128i before = abcd;                                                               \
        e = (i) ? _mm_sha1nexte_epu32(e, m[(i) & 3]) : _mm_add_epi32(e, m[0]);               \
        abcd = _mm_sha1rnds4_epu32(abcd, e, constant);                                       \
        e = before;                                                                          \
    } while (0)

__attribute__((target("sha,sse4.1")))
static void sha1_compress_ni(uint32_t state[5], const uint8_t block[64])
{
    const __m128i swap = _mm_set_epi64x(0x0001020304050607ll, 0x08090a0b0c0d0e0fll);
    __m128i first = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0x1b);
    __m128i last = _mm_set_epi32((int)state[4], 0, 0, 0);
    __m128i abcd = first, e = last, m[4];
    for (int i = 0; i < 4; i++)
        m[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * i)), swap);
    SHA1_FOUR(0, 0); SHA1_FOUR(1, 0); SHA1_FOUR(2, 0); SHA1_FOUR(3, 0); SHA1_FOUR(4, 0);
    SHA1_FOUR(5, 1); SHA1_FOUR(6, 1); SHA1_FOUR(7, 1); SHA1_FOUR(8, 1); SHA1_FOUR(9, 1);
    SHA1_FOUR(10, 2); SHA1_FOUR(11, 2); SHA1_FOUR(12, 2); SHA1_FOUR(13, 2); SHA1_FOUR(14, 2);
    SHA1_FOUR(15, 3); SHA1_FOUR(16, 3); SHA1_FOUR(17, 3); SHA1_FOUR(18, 3); SHA1_FOUR(19, 3);
    e = _mm_sha1nexte_epu32(e, last);
    abcd = _mm_add_epi32(abcd, first);
    _mm_storeu_si128((__m128i *)state, _mm_shuffle_epi32(abcd, 0x1b));
    state[4] = (uint32_t)_mm_extract_epi32(e, 3);
}
#undef SHA1_FOUR

/* The same for two states at once, which know nothing of each other: an instruction of one waits
 * for its last, and the other's runs meanwhile. */
#define SHA1_FOUR_OF(n, i, constant)                                                         \
    do {                                                                                     \
        if ((i) >= 4)                                                                        \
            m##n[(i) & 3] = _mm_sha1msg2_epu32(                                              \
                _mm_xor_si128(_mm_sha1msg1_epu32(m##n[(i) & 3], m##n[((i) + 1) & 3]),        \
                              m##n[((i) + 2) & 3]), m##n[((i) + 3) & 3]);                    \
        __m128i before##n = abcd##n;                                                         \
        e##n = (i) ? _mm_sha1nexte_epu32(e##n, m##n[(i) & 3]) : _mm_add_epi32(e##n, m##n[0]); \
        abcd##n = _mm_sha1rnds4_epu32(abcd##n, e##n, constant);                              \
        e##n = before##n;                                                                    \
    } while (0)
#define SHA1_FOUR_TWICE(i, constant) SHA1_FOUR_OF(0, i, constant); SHA1_FOUR_OF(1, i, constant)
#define SHA1_OPEN(n, state, block)                                                           \
    __m128i first##n = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state)), 0x1b);   \
    __m128i last##n = _mm_set_epi32((int)(state)[4], 0, 0, 0);                               \
    __m128i abcd##n = first##n, e##n = last##n, m##n[4];                                     \
    for (int i = 0; i < 4; i++)                                                              \
        m##n[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)((block) + 16 * i)), swap)
#define SHA1_CLOSE(n, state)                                                                 \
    do {                                                                                     \
        e##n = _mm_sha1nexte_epu32(e##n, last##n);                                           \
        abcd##n = _mm_add_epi32(abcd##n, first##n);                                          \
        _mm_storeu_si128((__m128i *)(state), _mm_shuffle_epi32(abcd##n, 0x1b));              \
        (state)[4] = (uint32_t)_mm_extract_epi32(e##n, 3);                                   \
    } while (0)

__attribute__((target("sha,sse4.1")))
static void sha1_compress_two_ni(uint32_t state0[5], const uint8_t block0[64],
                                 uint32_t state1[5], const uint8_t block1[64])
{
    const __m128i swap = _mm_set_epi64x(0x0001020304050607ll, 0x08090a0b0c0d0e0fll);
    SHA1_OPEN(0, state0, block0);
    SHA1_OPEN(1, state1, block1);
    SHA1_FOUR_TWICE(0, 0); SHA1_FOUR_TWICE(1, 0); SHA1_FOUR_TWICE(2, 0); SHA1_FOUR_TWICE(3, 0);
    SHA1_FOUR_TWICE(4, 0); SHA1_FOUR_TWICE(5, 1); SHA1_FOUR_TWICE(6, 1); SHA1_FOUR_TWICE(7, 1);
    SHA1_FOUR_TWICE(8, 1); SHA1_FOUR_TWICE(9, 1); SHA1_FOUR_TWICE(10, 2); SHA1_FOUR_TWICE(11, 2);
    SHA1_FOUR_TWICE(12, 2); SHA1_FOUR_TWICE(13, 2); SHA1_FOUR_TWICE(14, 2);
    SHA1_FOUR_TWICE(15, 3); SHA1_FOUR_TWICE(16, 3); SHA1_FOUR_TWICE(17, 3);
    SHA1_FOUR_TWICE(18, 3); SHA1_FOUR_TWICE(19, 3);
    SHA1_CLOSE(0, state0);
    SHA1_CLOSE(1, state1);
}
#undef SHA1_FOUR_OF
#undef SHA1_FOUR_TWICE
#undef SHA1_OPEN
#undef SHA1_CLOSE

static int sha1_has_ni(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29);
}
#else
static void sha1_compress_ni(uint32_t state[5], const uint8_t block[64])
{
    sha1_compress_portable(state, block);
}
static void sha1_compress_two_ni(uint32_t state0[5], const uint8_t block0[64],
                                 uint32_t state1[5], const uint8_t block1[64])
{
    sha1_compress_portable(state0, block0);
    sha1_compress_portable(state1, block1);
}
static int sha1_has_ni(void) { return 0; }
#endif

static sha1_compress_t sha1_compress = sha1_compress_portable;

/* Two compressions that have nothing to do with each other, in the form chosen. */
static inline void sha1_compress_two(uint32_t state0[5], const uint8_t block0[64],
                                     uint32_t state1[5], const uint8_t block1[64])
{
    if (sha1_compress == sha1_compress_ni) {
        sha1_compress_two_ni(state0, block0, state1, block1);
    } else {
        sha1_compress(state0, block0);
        sha1_compress(state1, block1);
    }
}

/* Chooses the form for this process; returns 1 for SHA-NI. want_ni = 0 forces the portable one. */
static int sha1_choose(int want_ni)
{
    int ni = want_ni && sha1_has_ni();
    sha1_compress = ni ? sha1_compress_ni : sha1_compress_portable;
    return ni;
}

#endif
