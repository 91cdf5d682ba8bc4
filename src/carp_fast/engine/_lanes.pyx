"""The lanes in which frames are received: which of them a silence depends on.

A stranger can fill a socket, and the kernel then drops all further frames. So frames of sources
that were genuine before have a socket of their own, the genuine lane, and only a frame dropped
there can have been an advertisement of a known master. net/lanes.py decides which source is in
which lane. This module uses no socket and no clock: frames and times are arguments.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from carp_fast.engine._wire cimport BAD_AUTH, ETHERNET_LENGTH, VERDICT_OK

LANE_WORDS = ("genuine", "common", "stray")
COVERAGE_WORDS = ("nobody", "some", "all")

cdef int64_t TELL_AGAIN_NS = 1000000000         # for one source that stays outside its lane
# The genuine lane has the frames of known masters; with others, silence is judged so much later.
cdef int64_t COMMON_LAG_NS = 250000000
# If no source is known, dropped frames postpone a take-over by no more than this; the time starts
# again when nothing was dropped for as long.
cdef int64_t UNPROVEN_NS = 30000000000


cdef inline bint is_unsorted(const Lanes* lanes, int64_t now_ns) noexcept nogil:
    """Whether a source that was found may still be outside its lane.

    That is until Python, which may be busy or stopped, has changed the filters, and for
    TELL_AGAIN_NS at least.
    """
    return lanes.sources_told != lanes.sources_sorted or now_ns < lanes.unsorted_until_ns


cdef inline bint covers(const Lanes* lanes, int64_t now_ns) noexcept nogil:
    """Whether every source that was heard genuine has its frames in the genuine lane."""
    return lanes.sorting and lanes.coverage == COVERS_ALL and not is_unsorted(lanes, now_ns)


cdef bint lanes_prove_nothing(Lanes* lanes, uint8_t lane, int64_t now_ns) noexcept nogil:
    """Frames of this lane were dropped: whether a master's can have been among them."""
    if lane != LANE_COMMON:
        return lane == LANE_GENUINE
    if covers(lanes, now_ns):
        return False
    if not lanes.sorting or lanes.coverage != COVERS_NOBODY or is_unsorted(lanes, now_ns):
        return True
    if lanes.dropping_since_ns == 0 or now_ns - lanes.dropped_ns > UNPROVEN_NS:
        lanes.dropping_since_ns = now_ns
    lanes.dropped_ns = now_ns
    return now_ns - lanes.dropping_since_ns < UNPROVEN_NS


cdef int64_t lanes_heard_until(const Lanes* lanes, int64_t genuine_ns, int64_t common_ns,
                               int64_t now_ns) noexcept nogil:
    """The time up to which silence counts, given how far the two lanes have been read.

    A backlog of strangers holds up a take-over for COMMON_LAG_NS at most, if all known sources
    have their lane, or if a long flood came while no source was known.
    """
    if covers(lanes, now_ns) or (
            lanes.coverage == COVERS_NOBODY and lanes.dropping_since_ns
            and lanes.dropped_ns - lanes.dropping_since_ns >= UNPROVEN_NS):
        common_ns = max(common_ns, genuine_ns - COMMON_LAG_NS)
    return min(genuine_ns, common_ns)


cdef uint32_t source_key(const FrameHeard* frame) noexcept nogil:
    """The source and its interface in 32 bits, the same key that the filters use."""
    cdef const uint8_t* ip = frame.bytes + ETHERNET_LENGTH
    cdef uint32_t words[4]
    memset(words, 0, sizeof(words))
    if frame.bytes[12] == 0x08:
        memcpy(words, ip + 12, 4)
    else:
        memcpy(words, ip + 8, 16)
    return words[0] ^ words[1] ^ words[2] ^ words[3] ^ <uint32_t>frame.interface * 2654435761U


cdef bint lanes_find_source(Lanes* lanes, const FrameHeard* frame,
                            int64_t now_ns) noexcept nogil:
    """A frame of the common lane was judged: whether to report its source as a genuine one.

    Each is reported once a second at most, and SOURCES_A_TURN in a turn: a flood of replays must
    not fill the ring of reports.
    """
    cdef uint32_t key
    cdef ToldSource* told
    if frame.verdict != VERDICT_OK or lanes.told_count == SOURCES_A_TURN:
        return False
    key = source_key(frame)
    told = &lanes.told[(key * 2654435761U) >> 22]
    if told.at_ns and told.key == key and now_ns - told.at_ns < TELL_AGAIN_NS:
        return False
    told.key, told.at_ns = key, now_ns
    lanes.told_count += 1
    lanes.unsorted_until_ns = now_ns + TELL_AGAIN_NS
    return True


cdef class LaneJudge:
    """The lanes of a pump without the pump, for tests; times in ns."""
    cdef Lanes lanes

    def __cinit__(self, str coverage, bint sorting=True):
        self.lanes.sorting = sorting
        self.lanes.coverage = <uint8_t>COVERAGE_WORDS.index(coverage)

    def cover(self, str coverage) -> None:
        """Let the genuine lane hold what a word of COVERAGE_WORDS names, from now on."""
        lanes_cover(&self.lanes, <uint8_t>COVERAGE_WORDS.index(coverage))

    def proves_nothing(self, str lane, int64_t now_ns) -> bool:
        """Frames of the lane were dropped: whether silence proves nothing then."""
        return lanes_prove_nothing(&self.lanes, <uint8_t>LANE_WORDS.index(lane), now_ns)

    def heard_until(self, int64_t genuine_ns, int64_t common_ns, int64_t now_ns) -> int:
        """The time up to which silence counts."""
        return lanes_heard_until(&self.lanes, genuine_ns, common_ns, now_ns)

    def finds(self, bytes frame, int64_t now_ns, uint16_t interface=0, bint genuine=True) -> bool:
        """Whether the source of a frame of the common lane is to be reported."""
        cdef FrameHeard heard
        heard.bytes, heard.length, heard.interface = frame, <uint32_t>len(frame), interface
        heard.arrived_ns, heard.verdict = now_ns, VERDICT_OK if genuine else BAD_AUTH
        return lanes_find_source(&self.lanes, &heard, now_ns)

    def tell(self) -> None:
        """Count a source as reported to Python."""
        self.lanes.sources_told += 1

    def settle(self) -> None:
        """Let the filters know all sources reported to Python."""
        self.lanes.sources_sorted = self.lanes.sources_told

    def begin_turn(self) -> None:
        """Begin a turn: SOURCES_A_TURN may be reported again."""
        self.lanes.told_count = 0
