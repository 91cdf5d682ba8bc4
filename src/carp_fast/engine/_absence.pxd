"""Absences of the pump and losses of frames, and what they mean to a host's silence."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._vhid cimport VirtualHost

cdef enum:
    ABSENCES = 16                   # kept; a wait overlaps more than four only where all is lost

cdef struct Absence:
    int64_t since_ns                # frames that arrived before it have been heard
    int64_t until_ns
    int64_t asleep_ns               # time that passed meanwhile without CLOCK_MONOTONIC
    uint8_t dropped                 # frames were dropped: it counts however short it was

cdef struct Absences:
    Absence kept[ABSENCES]          # in the order of their ends, oldest first
    uint32_t count

cdef bint absence_counts(const Absence* absence, int64_t interval_ns) noexcept nogil
cdef void absence_note(Absences* absences, const Absence* absence) noexcept nogil
cdef int64_t absence_end(const Absences* absences, int64_t interval_ns) noexcept nogil
cdef int64_t absence_extended(const Absences* absences, const VirtualHost* host,
                              int64_t* counted_until_ns) noexcept nogil
