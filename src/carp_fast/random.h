/* Random numbers from a seed: splitmix64 (Steele, Lea, Flood: Fast splittable generators). */
#ifndef CARP_FAST_RANDOM_H
#define CARP_FAST_RANDOM_H

#include <stdint.h>

/* A number that looks random, always the same one for x. */
static inline uint64_t random_mixed(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* The next 64 bits of a sequence. */
static inline uint64_t random_next(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15u;
    return random_mixed(*state);
}

#endif
