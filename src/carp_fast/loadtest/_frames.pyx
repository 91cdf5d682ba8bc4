"""Sources of a flood's frames: the interface of all makers of frames, and a recording.

Frames are sent in the order in which they were made; frames that were not sent are given back, the
last one first, so a maker's counts are those of frames sent. Uses no socket, clock or file: a
recording is passed as bytes.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

cdef enum:
    ROOM = 1518

FRAME_BYTES_MAX = ROOM
"""The longest frame: Ethernet's, with an 802.1Q tag."""
RECORDED_FRAMES_MAX = 4_000_000
"""Frames of a recording, which is held in memory."""


cdef class FrameSource:
    """Makes frames one by one; see `Mix` and `Recording`."""

    cdef bint make(self, uint8_t* frame, Made* made) noexcept nogil:
        """Write the next frame and its properties; False: there is none left. See `finish`."""
        return False

    cdef void finish(self) noexcept nogil:
        """Complete all frames made so far; until then their memory must stay in place."""

    cdef void give_back(self, const Made* made) noexcept nogil:
        """Take back the latest frame, which is finished and was not sent."""

    def take(self) -> "tuple[str, bytes] | None":
        """The next frame and its kind, for files and tests; None: there is none left."""
        cdef Made made
        cdef uint8_t frame[ROOM]
        if not self.make(frame, &made):
            return None
        self.finish()
        return self.kinds[made.kind], (<const char*>frame)[:made.length]


cdef class Recording(FrameSource):
    """The frames of a recording, unchanged, repeated `times` times.

    frames: [(ns, bytes)], in the order of sending; times: 0 is without end. The mean of the gaps
    separates the last frame from the first of the next repetition. Raises ValueError.
    """

    def __init__(self, frames, uint32_t times=1):
        cdef bytes data
        cdef uint64_t at = 0
        if self.data != NULL:
            raise ValueError("a recording is set up once")
        if not 1 <= len(frames) <= RECORDED_FRAMES_MAX:
            raise ValueError(f"a recording of {len(frames):,} frames: from 1 to "
                             f"{RECORDED_FRAMES_MAX:,} (RECORDED_FRAMES_MAX)")
        self.longest = max(len(data) for _, data in frames)
        if min(len(data) for _, data in frames) < 14 or self.longest > FRAME_BYTES_MAX:
            raise ValueError("a recorded frame has from 14 to "
                             f"{FRAME_BYTES_MAX:,} bytes (FRAME_BYTES_MAX)")
        self.kinds = ("recorded",)
        self.frames, self.times = <uint32_t>len(frames), times
        self.data = <uint8_t*>malloc(sum(len(data) for _, data in frames))
        self.starts = <uint64_t*>malloc((self.frames + 1) * sizeof(uint64_t))
        self.at_ns = <int64_t*>malloc(self.frames * sizeof(int64_t))
        if self.data == NULL or self.starts == NULL or self.at_ns == NULL:
            raise MemoryError("recording")
        first_ns, latest_ns = frames[0][0], 0
        for i, (at_ns, data) in enumerate(frames):
            memcpy(self.data + at, <const char*>data, len(data))
            self.starts[<uint32_t>i] = at
            at += <uint64_t>len(data)
            # The clock may have been set back while recording: frames keep their order.
            latest_ns = max(latest_ns, at_ns - first_ns)
            self.at_ns[<uint32_t>i] = latest_ns
        self.starts[self.frames] = at
        self.gap_ns = latest_ns // (self.frames - 1) if self.frames > 1 else 1_000_000_000

    def __dealloc__(self):
        free(self.data)
        free(self.starts)
        free(self.at_ns)

    cdef bint make(self, uint8_t* frame, Made* made) noexcept nogil:
        if self.times and self.done >= self.times:
            return False
        made.flow, made.kind, made.replay = NO_FLOW, 0, False
        made.length = <uint32_t>(self.starts[self.next + 1] - self.starts[self.next])
        memcpy(frame, self.data + self.starts[self.next], made.length)
        self.next += 1
        if self.next == self.frames:
            self.next = 0
            self.done += 1
        return True

    cdef void give_back(self, const Made* made) noexcept nogil:
        if not self.next:
            self.next = self.frames
            self.done -= 1
        self.next -= 1

    cdef int64_t due_ns(self, uint64_t number) noexcept nogil:
        """When the frame of this number is due, since the first one."""
        cdef uint64_t whole = number // self.frames
        cdef int64_t length_ns = self.at_ns[self.frames - 1] + self.gap_ns
        return <int64_t>whole * length_ns + self.at_ns[number % self.frames]
