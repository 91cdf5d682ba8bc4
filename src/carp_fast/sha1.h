/* SHA-1's compression function, FIPS 180-4 section 6.1.2, and the two compressions that end an HMAC.
 *
 * Two implementations: portable C, and one with the SHA extensions of x86 (SHA-NI). sha1_choose()
 * picks one. engine/_auth.pyx handles keys and padding. Knows no packet and no allocation.
 */
#ifndef CARP_FAST_SHA1_H
#define CARP_FAST_SHA1_H

#include <stdint.h>
#include <string.h>

typedef void (*sha1_compress_t)(uint32_t state[5], const uint8_t block[64]);

/* The end of an HMAC: the last block of the inner hash, then the outer hash over its result. */
struct sha1_ending {
    const uint32_t *inner, *outer;  /* five words each */
    const uint8_t *block;           /* 64 bytes, zero where the counter is put */
    const uint8_t *counter;         /* 8 bytes */
    uint8_t *digest;                /* 20 bytes */
    uint32_t at;                    /* of the counter in the block, at most 56; or SHA1_NO_COUNTER */
};
#define SHA1_NO_COUNTER 64
typedef void (*sha1_end_t)(struct sha1_ending *endings, uint32_t count);

/* Overwrites a secret; the compiler may not leave it out although nothing reads the zeros. */
static inline void sha1_forget(void *secret, size_t length)
{
    memset(secret, 0, length);
    __asm__ __volatile__("" : : "r"(secret) : "memory");
}

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

static inline void sha1_store(uint8_t *p, uint32_t x)
{
    p[0] = (uint8_t)(x >> 24), p[1] = (uint8_t)(x >> 16), p[2] = (uint8_t)(x >> 8), p[3] = (uint8_t)x;
}

/* The outer hash is over 64 bytes of key and the 20 of the inner digest. */
#define SHA1_OUTER_BITS ((64 + 20) * 8)

static void sha1_end_portable(struct sha1_ending *endings, uint32_t count)
{
    for (const struct sha1_ending *ending = endings; ending < endings + count; ending++) {
        uint32_t state[5];
        uint8_t block[64], last[64] = {0};
        memcpy(block, ending->block, sizeof(block));
        if (ending->at != SHA1_NO_COUNTER)
            memcpy(block + ending->at, ending->counter, 8);
        memcpy(state, ending->inner, sizeof(state));
        sha1_compress_portable(state, block);
        for (int i = 0; i < 5; i++)
            sha1_store(last + 4 * i, state[i]);
        last[20] = 0x80;
        sha1_store(last + 60, SHA1_OUTER_BITS);
        memcpy(state, ending->outer, sizeof(state));
        sha1_compress_portable(state, last);
        for (int i = 0; i < 5; i++)
            sha1_store(ending->digest + 4 * i, state[i]);
    }
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

#define SHA1_NI __attribute__((target("sha,sse4.1")))
#define SHA1_NI_INLINE __attribute__((target("sha,sse4.1"), always_inline)) static inline

#define SHA1_LANES 4     /* more than four at once gain nothing: the unit is busy */
#define SHA1_SWAP _mm_set_epi64x(0x0001020304050607ll, 0x08090a0b0c0d0e0fll)

/* For every lane; written out, so that each lane's vectors are in registers or on the stack. */
#define SHA1_EACH(k, lanes) _Pragma("GCC unroll 4") for (int k = 0; k < (lanes); k++)

/* abcd with a in the highest word, e in its highest, and 16 words, the first highest in m[0]. */
typedef struct {
    __m128i abcd, e, m[4];
} sha1_ni_t;

/* Four rounds: m becomes the schedule, four words a vector. The round constant of sha1rnds4 is an
 * immediate operand, so this is a macro. */
#define SHA1_FOUR(w, i, constant)                                                            \
    do {                                                                                     \
        if ((i) >= 4)                                                                        \
            (w).m[(i) & 3] = _mm_sha1msg2_epu32(                                             \
                _mm_xor_si128(_mm_sha1msg1_epu32((w).m[(i) & 3], (w).m[((i) + 1) & 3]),      \
                              (w).m[((i) + 2) & 3]), (w).m[((i) + 3) & 3]);                  \
        __m128i before = (w).abcd;                                                           \
        (w).e = (i) ? _mm_sha1nexte_epu32((w).e, (w).m[(i) & 3])                             \
                    : _mm_add_epi32((w).e, (w).m[0]);                                        \
        (w).abcd = _mm_sha1rnds4_epu32((w).abcd, (w).e, constant);                           \
        (w).e = before;                                                                      \
    } while (0)
#define SHA1_ALL(FOUR)                                                                       \
    FOUR(0, 0); FOUR(1, 0); FOUR(2, 0); FOUR(3, 0); FOUR(4, 0);                              \
    FOUR(5, 1); FOUR(6, 1); FOUR(7, 1); FOUR(8, 1); FOUR(9, 1);                              \
    FOUR(10, 2); FOUR(11, 2); FOUR(12, 2); FOUR(13, 2); FOUR(14, 2);                         \
    FOUR(15, 3); FOUR(16, 3); FOUR(17, 3); FOUR(18, 3); FOUR(19, 3)

SHA1_NI_INLINE void sha1_begin_ni(sha1_ni_t *w, const uint32_t state[5])
{
    w->abcd = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0x1b);
    w->e = _mm_set_epi32((int)state[4], 0, 0, 0);
}

SHA1_NI_INLINE void sha1_load_ni(sha1_ni_t *w, const uint8_t block[64])
{
    for (int i = 0; i < 4; i++)
        w->m[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * i)), SHA1_SWAP);
}

/* Loads a block with its counter, which is put there in registers: written to the block it would
 * wait in the store buffer, too. */
SHA1_NI_INLINE void sha1_load_ending_ni(sha1_ni_t *w, const struct sha1_ending *ending)
{
    /* Which byte of the counter each byte takes, from 64 bytes before it on; 0x80: none, 0. */
    static const uint8_t places[128] = {
        [0 ... 63] = 0x80, 0, 1, 2, 3, 4, 5, 6, 7, [72 ... 127] = 0x80};
    __m128i counter = _mm_loadl_epi64((const __m128i *)ending->counter);
    for (int i = 0; i < 4; i++) {
        __m128i constant = _mm_loadu_si128((const __m128i *)(ending->block + 16 * i));
        __m128i place = _mm_loadu_si128((const __m128i *)(places + 64 - ending->at + 16 * i));
        w->m[i] = _mm_shuffle_epi8(_mm_or_si128(constant, _mm_shuffle_epi8(counter, place)),
                                   SHA1_SWAP);
    }
}

/* Compresses `lanes` independent inputs: an instruction of one waits for its last, and those of the
 * others run meanwhile. `lanes` is constant where this is inlined. */
SHA1_NI_INLINE void sha1_rounds_ni(sha1_ni_t *work, int lanes)
{
    sha1_ni_t w[SHA1_LANES];
    SHA1_EACH(k, lanes)
        w[k] = work[k];
#define FOUR(i, constant)                                                                    \
    SHA1_EACH(k, lanes)                                                                      \
        SHA1_FOUR(w[k], i, constant)
    SHA1_ALL(FOUR);
#undef FOUR
    SHA1_EACH(k, lanes) {
        work[k].e = _mm_sha1nexte_epu32(w[k].e, work[k].e);
        work[k].abcd = _mm_add_epi32(w[k].abcd, work[k].abcd);
    }
}
#undef SHA1_ALL
#undef SHA1_FOUR

/* From the inner digest to the outer hash over it, in registers only: written as bytes and read
 * again as vectors it would wait in the store buffer for longer than some rounds take. */
SHA1_NI_INLINE void sha1_turn_ni(sha1_ni_t *w, const uint32_t outer[5])
{
    w->m[0] = w->abcd;
    w->m[1] = _mm_or_si128(_mm_blend_epi16(_mm_setzero_si128(), w->e, 0xc0),
                           _mm_set_epi32(0, (int)0x80000000u, 0, 0));
    w->m[2] = _mm_setzero_si128();
    w->m[3] = _mm_set_epi32(0, 0, 0, SHA1_OUTER_BITS);
    sha1_begin_ni(w, outer);
}

SHA1_NI_INLINE void sha1_put_ni(const sha1_ni_t *w, uint8_t digest[20])
{
    _mm_storeu_si128((__m128i *)digest, _mm_shuffle_epi8(w->abcd, SHA1_SWAP));
    sha1_store(digest + 16, (uint32_t)_mm_extract_epi32(w->e, 3));
}

SHA1_NI static void sha1_compress_ni(uint32_t state[5], const uint8_t block[64])
{
    sha1_ni_t w;
    sha1_begin_ni(&w, state);
    sha1_load_ni(&w, block);
    sha1_rounds_ni(&w, 1);
    _mm_storeu_si128((__m128i *)state, _mm_shuffle_epi32(w.abcd, 0x1b));
    state[4] = (uint32_t)_mm_extract_epi32(w.e, 3);
}

SHA1_NI_INLINE void sha1_end_lanes_ni(const struct sha1_ending *endings, int lanes)
{
    sha1_ni_t w[SHA1_LANES];
    SHA1_EACH(k, lanes) {
        sha1_begin_ni(&w[k], endings[k].inner);
        sha1_load_ending_ni(&w[k], &endings[k]);
    }
    sha1_rounds_ni(w, lanes);
    SHA1_EACH(k, lanes)
        sha1_turn_ni(&w[k], endings[k].outer);
    sha1_rounds_ni(w, lanes);
    SHA1_EACH(k, lanes)
        sha1_put_ni(&w[k], endings[k].digest);
}

SHA1_NI static void sha1_end_ni(struct sha1_ending *endings, uint32_t count)
{
    for (; count >= SHA1_LANES; endings += SHA1_LANES, count -= SHA1_LANES)
        sha1_end_lanes_ni(endings, SHA1_LANES);
    if (count == 3)
        sha1_end_lanes_ni(endings, 3);
    else if (count == 2)
        sha1_end_lanes_ni(endings, 2);
    else if (count == 1)
        sha1_end_lanes_ni(endings, 1);
}

#undef SHA1_EACH

static int sha1_has_ni(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1u << 29);
}
#else
#define sha1_compress_ni sha1_compress_portable
#define sha1_end_ni sha1_end_portable
static int sha1_has_ni(void) { return 0; }
#endif

static sha1_compress_t sha1_compress = sha1_compress_portable;
static sha1_end_t sha1_end = sha1_end_portable;

/* Chooses the implementation for this process; returns 1 for SHA-NI. want_ni = 0 forces portable.
*/
static int sha1_choose(int want_ni)
{
    int ni = want_ni && sha1_has_ni();
    sha1_compress = ni ? sha1_compress_ni : sha1_compress_portable;
    sha1_end = ni ? sha1_end_ni : sha1_end_portable;
    return ni;
}

#endif
