"""Frames that arrived: when, and how far a receiver has been read. Uses no socket and no clock."""

from libc.stdint cimport int64_t, uint32_t

cdef enum:
    STAMP_SLACK_NS = 1000000    # of the wall clock


cdef int64_t arrived_at(const Receiver* receiver, int64_t stamp_ns,
                        int64_t now_ns) noexcept nogil:
    """When a frame arrived, from its stamp: between the last read of the socket and now.

    If the wall clock was stepped since, the stamp is not within, and the frame counts as new.
    """
    return stamp_ns if receiver.heard_until_ns - STAMP_SLACK_NS <= stamp_ns <= now_ns else now_ns


cdef int64_t heard_until(const Receiver* receiver) noexcept nogil:
    """Every frame that arrived until then has been passed to the engine, and no later one."""
    return max(receiver.heard_until_ns, receiver.last_ns)


cdef void take_arrivals(Receiver* receiver, Intake* intake) noexcept nogil:
    """Set when each frame of a batch arrived, and drop those that a former engine has heard.

    The stamp of a frame that was never stamped is negative: it counts as new.
    """
    cdef uint32_t i, kept = 0
    receiver.last_ns = max(receiver.last_ns,
                           arrived_at(receiver, intake.last_ns, intake.taken_ns))
    for i in range(intake.count):
        if 0 < intake.frames[i].arrived_ns <= receiver.discard_until_ns:
            continue
        if kept != i:
            intake.frames[kept] = intake.frames[i]
        intake.frames[kept].arrived_ns = arrived_at(receiver, intake.frames[i].arrived_ns,
                                                    intake.taken_ns)
        kept += 1
    intake.count = kept
