"""A field that changes from frame to frame: fixed, counted up, drawn from a seed, or a list.

Knows numbers only: the caller knows the meaning of a field.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

ORDER_WORDS = ("increment", "random")


cdef void walk_value(const Walk* walk, uint32_t index, Number* value) noexcept nogil:
    """The value at an index below `walk.count`."""
    if walk.listed != NULL:
        value[0] = walk.listed[index]
    else:
        value.high = walk.first.high
        value.low = walk.first.low + index * walk.step


cdef void walk_take(Walk* walk, uint64_t* random, Number* value) noexcept nogil:
    """The next value of a walk that has any; `walk.index` is its index.

    An ordered walk skips one value after `shift_every`: otherwise two walks whose lengths have a
    common divisor would combine only some of their values, again and again.
    """
    cdef uint32_t index
    if walk.order == AT_RANDOM:
        index = <uint32_t>(((random_next(random) >> 32) * walk.count) >> 32)
    else:
        index = walk.next
        walk.next += 1
        if walk.until_shift:
            walk.until_shift -= 1
            if not walk.until_shift:
                walk.next += 1
                walk.until_shift = walk.shift_every
        # Both may be beyond the end, also in a list of one.
        while walk.next >= walk.count:
            walk.next -= walk.count
    walk.index = index
    walk_value(walk, index, value)


cdef uint64_t greatest_divisor(uint64_t a, uint64_t b) noexcept nogil:
    """The greatest common divisor of two numbers, by Euclid; the other one if one is 0."""
    while b:
        a, b = b, a % b
    return a


cdef void number_put(uint8_t* data, int length, const Number* number) noexcept nogil:
    """Write a number in so many bytes, big-endian."""
    cdef int i
    for i in range(length):
        data[length - 1 - i] = ((number.low >> (8 * i)) if i < 8
                                else (number.high >> (8 * (i - 8)))) & 0xff
