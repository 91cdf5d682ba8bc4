"""Clones: batches of frames that a BPF program sends, and the trial of each interface."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from carp_fast.engine._core cimport Core, MAX_INTERFACES
from carp_fast.pump._arrivals cimport BATCH_MAX
from carp_fast.pump._turn cimport Outgoing

cdef enum:
    CLONES_MIN = 16             # frames in a batch, from which on clones cost less than sendmmsg
    FRAMES_A_RUN = 64           # this and SlotOfRun: as in net/clones.py
    SLOT_FRAME_ROOM = 112
    NOT_SENT = -1               # of Outgoing.error: the packet socket sends it

cdef enum GivenUp:              # why; as WHY_CLONES in engine/_reports.pyx
    GIVEN_UP_RUN                # the program cannot be run
    GIVEN_UP_UNREAD             # the interface's counter cannot be read
    GIVEN_UP_UNCOUNTED          # it did not count the frames of the trial
    GIVEN_UP_REFUSED            # it refuses clones, but not a packet socket's frames

cdef enum TrialState:
    TRIAL_DUE                   # its first frames are still to be sent
    TRIAL_BEGUN                 # they are in this batch
    TRIAL_WAITING               # its counter has not counted them yet; the packet socket sends
    TRIAL_PASSED                # clones are sent
    TRIAL_FAILED                # the packet socket sends

cdef struct SlotOfRun:
    int32_t ifindex
    int32_t result              # 0, a positive NET_XMIT_*, or minus an errno
    uint8_t unused[8]
    uint8_t frame[SLOT_FRAME_ROOM]

cdef struct Run:                # the memory that the program shares
    uint32_t count
    uint8_t unused[60]
    SlotOfRun slots[FRAMES_A_RUN]

cdef struct Trial:              # of an interface
    uint8_t state               # a TrialState
    uint32_t frames             # chosen for its trial; then: sent as clones
    uint32_t later              # sent by the packet socket since
    uint32_t owed               # both, two seconds after the trial; 0: not yet
    uint32_t refused            # clones in a row that the packet socket had to send
    uint64_t counted            # frames that the interface had sent before
    int64_t begun_ns
    int64_t check_ns            # when to look at its counter again

cdef struct Shape:              # frames of which can be in one run
    uint8_t ethertype[2]
    uint32_t length
    uint32_t count

cdef struct Clones:
    bint on
    int program_fd
    int directory_fd            # /sys/class/net
    int control_fd              # a socket, for names and flags of interfaces
    Run* run
    uint32_t failures           # of runs, in a row
    uint32_t trials_begun       # in this batch
    uint32_t trials_waiting
    uint32_t refused            # frames of this batch that the packet socket has to send
    int last_refusal            # the errno of one
    uint64_t frames             # sent
    uint64_t failed             # runs that failed
    uint32_t owners[FRAMES_A_RUN]       # of each slot: its frame in the batch
    uint8_t ways[BATCH_MAX]     # of each frame: its shape, or a Way
    Trial trials[MAX_INTERFACES]

cdef void clones_open(Clones* clones, int program_fd, Run* run, int directory_fd,
                      int control_fd) noexcept nogil
cdef bint clones_send(Clones* clones, Core* core, Outgoing* frames, uint32_t count) noexcept nogil
cdef void clones_note_rest(Clones* clones, Core* core, const Outgoing* frames,
                           uint32_t count) noexcept nogil
cdef void clones_forget(Clones* clones, uint32_t interface) noexcept nogil
