/* Fetches memory into the cache ahead of its use. */
#ifndef CARP_FAST_FORESEE_H
#define CARP_FAST_FORESEE_H

/* The empty assembly keeps the fetch: to GCC 12 a function that only fetches has no effect, and it
 * drops the calls of it. */
static inline void foresee_line(const void *p)
{
    __builtin_prefetch(p);
    __asm__ __volatile__("" : : "r"(p));
}

#endif
