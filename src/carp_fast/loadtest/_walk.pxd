"""A field that changes from frame to frame: fixed, counted up, drawn from a seed, or a list."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "random.h" nogil:
    uint64_t random_next(uint64_t* state) noexcept

cdef enum WalkOrder:                # in the order of ORDER_WORDS
    IN_TURN
    AT_RANDOM

cdef struct Number:                 # up to 128 bits: a number, a MAC or an address
    uint64_t high
    uint64_t low

cdef struct Walk:
    Number first
    uint64_t step
    const Number* listed            # the values themselves, or NULL
    uint32_t count                  # of values; 0: the field does not walk
    uint32_t next                   # the next index of an ordered walk
    uint32_t index                  # of the last value taken
    uint64_t shift_every            # values after which it skips one; 0: never
    uint64_t until_shift
    WalkOrder order

cdef void walk_value(const Walk* walk, uint32_t index, Number* value) noexcept nogil
cdef void walk_take(Walk* walk, uint64_t* random, Number* value) noexcept nogil
cdef uint64_t greatest_divisor(uint64_t a, uint64_t b) noexcept nogil
cdef void number_put(uint8_t* data, int length, const Number* number) noexcept nogil
