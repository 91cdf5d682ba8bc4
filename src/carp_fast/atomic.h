/* Atomic loads and stores for the rings between two threads. */
#ifndef CARP_FAST_ATOMIC_H
#define CARP_FAST_ATOMIC_H

#include <stdint.h>

static inline uint64_t load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release(uint64_t *p, uint64_t x) { __atomic_store_n(p, x, __ATOMIC_RELEASE); }
static inline uint16_t load_acquire_16(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void store_release_16(uint16_t *p, uint16_t x) { __atomic_store_n(p, x, __ATOMIC_RELEASE); }

#endif
