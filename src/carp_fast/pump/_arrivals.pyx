"""Frames that arrived: when, and how far a receiver has been read. Uses no socket and no clock."""

from libc.stdint cimport int64_t

cdef enum:
    STAMP_SLACK_NS = 1000000    # of the wall clock


cdef int64_t arrived_at(const Receiver* receiver, int64_t stamp_ns,
                        int64_t now_ns) noexcept nogil:
    """When a frame arrived, from its stamp: between the last read of the socket and now.

    If the wall clock was stepped since, the stamp is not within, and the frame counts as new.
    """
    return stamp_ns if receiver.heard_until_ns - STAMP_SLACK_NS <= stamp_ns <= now_ns else now_ns
