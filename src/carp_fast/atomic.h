/* Atomic loads and stores for the rings between two threads, or a BPF program and a thread. */
#ifndef CARP_FAST_ATOMIC_H
#define CARP_FAST_ATOMIC_H

#include <stdint.h>

static inline uint64_t load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release(uint64_t *p, uint64_t x) { __atomic_store_n(p, x, __ATOMIC_RELEASE); }
static inline uint32_t load_acquire_32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline uint16_t load_acquire_16(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release_16(uint16_t *p, uint16_t x) { __atomic_store_n(p, x, __ATOMIC_RELEASE); }

/* Nothing after it is read before the exchange is seen. */
static inline uint32_t exchange_32(uint32_t *p, uint32_t x)
{
    uint32_t before = __atomic_exchange_n(p, x, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return before;
}

/* Whether `*p` was `before`, and is `x` now. */
static inline int compare_exchange_32(uint32_t *p, uint32_t before, uint32_t x)
{
    return __atomic_compare_exchange_n(p, &before, x, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

#endif
