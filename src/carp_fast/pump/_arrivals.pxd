"""Frames that arrived: a batch of them, and how far a receiver has been read."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._receive cimport FrameHeard

cdef enum:
    BATCH_MAX = 256             # frames received or sent at once, at most

cdef struct Intake:             # a batch of frames from one receiver
    FrameHeard frames[BATCH_MAX]        # those on our interfaces
    uint32_t count
    int64_t taken_ns            # when it was read
    int64_t last_ns             # when its last frame arrived, ours or not
    bint blocked                # frames came that cannot be read yet, though the batch is not full

cdef struct Receiver:
    uint8_t lane                # a Lane
    int64_t heard_until_ns      # all frames that arrived here before have been passed to the engine
    int64_t last_ns             # when the last frame arrived that was read
    int64_t discard_until_ns    # frames that arrived until then were passed to a former engine

cdef int64_t heard_until(const Receiver* receiver) noexcept nogil
cdef void take_arrivals(Receiver* receiver, Intake* intake) noexcept nogil
cdef int64_t arrived_at(const Receiver* receiver, int64_t stamp_ns, int64_t now_ns) noexcept nogil
