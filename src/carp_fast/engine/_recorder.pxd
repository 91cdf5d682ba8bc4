"""Records of inputs and decisions: a ring of plain records, and a host's state as one struct."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._fields cimport Checkpoint
from carp_fast.engine._vhid cimport VirtualHost
from carp_fast.engine._wire cimport Advertisement

cdef enum RecordKind:
    RECORD_CHECKPOINT               # a piece of a host's state, see Piece
    RECORD_HEARD                    # verdict, fields of the advertisement; value: its counter
    RECORD_STATE                    # state, reason
    # deadlines were checked; value: heard until when; of a host: its deadline was moved
    RECORD_TURN
    RECORD_ADVERTISED              # fields of ours; value: counter; error: of detail frames, 0: all
    RECORD_ADDED                    # an address; error: the kernel's answer; detail: as a route
    RECORD_REMOVED
    RECORD_CHANGED                  # every address of the host has its outcome
    RECORD_ADDRESS                  # belongs to a checkpoint: detail: flags of an address
    RECORD_ANNOUNCED
    RECORD_INTERFACE                # see record_interface
    RECORD_ORDERED                  # detail: an OrderedKind; value
    RECORD_ABSENT                   # the pump; value: when deadlines were checked; see Record
    RECORD_DROPPED                  # frames; likewise
    RECORD_FOUND                    # an address is not as it should be; detail: a There
    RECORD_UNDEMOTED                # no longer demoted for its addresses
    RECORD_KINDS

cdef enum OrderedKind:
    ORDERED_REMOVE
    ORDERED_RESIGN                  # all hosts
    ORDERED_DEMOTE
    ORDERED_ANNOUNCE
    ORDERED_ADDRESS_LOST
    ORDERED_OWN_SOURCE              # value: flags of the missing sources
    ORDERED_ADOPT                   # address, family; value: the prefix length
    ORDERED_BAR
    ORDERED_BY_ROUTE
    ORDERED_YIELD                   # value: the reason
    ORDERED_PREEMPT
    ORDERED_WITHHOLD
    ORDERED_KINDS

cdef enum InterfaceDetail:          # detail of RECORD_INTERFACE
    RENAMED = 1
    ANNOUNCED_ANEW = 2

cdef enum:
    PIECE_LENGTH = 56
    REFUSED_A_SECOND = 100          # recorded of frames that change no host; the rest is counted
    CHECKPOINT_ADDRESSES = 32       # whose flags are recorded one by one
    ROUTED = 1                      # among flags of an address: it is HELD as a local route

cdef struct Record:                 # 64 bytes
    uint8_t kind
    uint8_t detail                  # the verdict of a frame, see RecordKind
    uint16_t interface
    uint32_t slot                   # or NOBODY
    int64_t at_ns
    uint64_t value
    uint8_t address[16]             # of an absence: its beginning, and the time asleep, ns
    uint8_t mac[6]
    uint8_t family
    uint8_t vhid
    uint8_t advbase
    uint8_t advskew
    uint8_t demote
    uint8_t state
    uint8_t reason
    uint8_t error
    uint8_t source4[4]
    uint8_t unused[6]

cdef struct Piece:                  # of a packed checkpoint, in the place of a Record
    uint8_t kind
    uint8_t number                  # from 0
    uint8_t pieces                  # of this checkpoint
    uint8_t unused
    uint32_t slot                   # where a Record has it
    uint8_t data[PIECE_LENGTH]

cdef struct Recorder:
    Record* records                 # NULL: nothing is recorded
    uint32_t capacity               # a power of two
    uint64_t begin                  # position of the first record ever
    uint64_t tail                   # position of the next one
    uint64_t since                  # position when the input or turn under way began
    int64_t turn_ns                 # when deadlines were last checked
    int64_t heard_until_ns
    bint turn_told                  # recorded already, or a frame or order came since
    int64_t refused_from_ns
    uint32_t refused                # since then
    uint64_t unrecorded             # refused frames beyond REFUSED_A_SECOND

cdef struct RecordCopy:             # for one order
    Record* records
    uint32_t room
    uint32_t count
    uint64_t first                  # requested, then copied: the oldest may be overwritten
    uint64_t end                    # the next record's position
    uint64_t begin
    uint64_t unrecorded

cdef int recorder_open(Recorder* recorder, uint32_t capacity) except -1
cdef void recorder_close(Recorder* recorder) noexcept
cdef void recorder_copy(const Recorder* recorder, RecordCopy* copy) noexcept nogil
cdef Record* record_input(Recorder* recorder, uint8_t kind, uint32_t slot, uint16_t interface,
                          int64_t at_ns) noexcept nogil
cdef Record* record_output(Recorder* recorder, uint8_t kind, uint32_t slot, uint16_t interface,
                           int64_t at_ns) noexcept nogil
cdef void record_turn(Recorder* recorder, int64_t now_ns, int64_t heard_until_ns) noexcept nogil
cdef void record_turn_of(Recorder* recorder, uint32_t slot, uint16_t interface) noexcept nogil
cdef void record_heard(Recorder* recorder, uint32_t slot, uint16_t interface, uint8_t verdict,
                       bint changes_host, const Advertisement* heard, int64_t at_ns) noexcept nogil
cdef void record_checkpoint(Recorder* recorder, VirtualHost* host,
                            Checkpoint* checkpoint) noexcept nogil
cdef list records_list(const Record* records, uint32_t count)
cdef dict checkpoint_dict(const Checkpoint* checkpoint)
cdef uint32_t flags_of(dict words, names) except? 0xffffffff
cdef int fill_checkpoint(Checkpoint* checkpoint, dict state) except -1


cdef inline void recorder_begin(Recorder* recorder) noexcept nogil:
    """An input or a turn begins: checkpoints are due as of now, until the next one does."""
    recorder.since = recorder.tail


cdef inline bint recorder_wants(const Recorder* recorder, const VirtualHost* host) noexcept nogil:
    """Whether the host's last checkpoint is about to be overwritten, or there is none.

    The answer is the same for as long as an input or a turn is under way: what it has changed of a
    host so far would be in a later checkpoint, which a replay begins with.
    """
    cdef uint32_t under_way = <uint32_t>(recorder.tail - recorder.since)
    return (recorder.records != NULL
            and <uint32_t>recorder.tail - host.recorded >= recorder.capacity // 2 + under_way)
