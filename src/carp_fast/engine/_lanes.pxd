"""The lanes in which frames are received: which of them a silence depends on."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from carp_fast.engine._receive cimport FrameHeard

cdef enum Lane:                 # in the order in which they are read, and of LANE_WORDS
    LANE_GENUINE                # frames of sources that were genuine on their interface
    LANE_COMMON                 # all others that may be an advertisement for us
    LANE_STRAY                  # frames that cannot be one: counted as far as there is time
    LANES

cdef enum Coverage:             # what the genuine lane holds, in the order of COVERAGE_WORDS
    COVERS_NOBODY
    COVERS_SOME                 # there was no room for others
    COVERS_ALL                  # every source that was heard genuine

cdef enum:
    SOURCES_TOLD = 1024         # reported sources that are remembered, a power of two
    SOURCES_A_TURN = 32         # at most reported in one turn

cdef struct ToldSource:
    int64_t at_ns               # 0: none
    uint32_t key

cdef struct Lanes:
    uint8_t sorting             # there is a genuine lane
    uint8_t coverage            # a Coverage; Python writes it
    uint32_t told_count         # sources reported in this turn
    uint32_t sources_told       # sources reported to Python, ever
    uint32_t sources_sorted     # ... of which the filters know; written by Python
    int64_t unsorted_until_ns   # a source was found outside its lane, and may be there until then
    int64_t dropping_since_ns   # frames have been dropped while no source was known; 0: no
    int64_t dropped_ns          # when that was last the case
    ToldSource told[SOURCES_TOLD]

cdef inline void lanes_cover(Lanes* lanes, uint8_t coverage) noexcept nogil:
    """The filters have changed: set what the genuine lane holds now, a Coverage.

    A time without any known source goes on: interfaces may come and go again and again in it.
    """
    if coverage != COVERS_NOBODY:
        lanes.dropping_since_ns = 0
    lanes.coverage = coverage


cdef bint lanes_prove_nothing(Lanes* lanes, uint8_t lane, int64_t now_ns) noexcept nogil
cdef int64_t lanes_heard_until(const Lanes* lanes, int64_t genuine_ns, int64_t common_ns,
                               int64_t now_ns) noexcept nogil
cdef bint lanes_find_source(Lanes* lanes, const FrameHeard* frame, int64_t now_ns) noexcept nogil
