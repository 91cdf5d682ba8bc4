"""One turn of the pump: engine, sockets, netlink and clock together."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._core cimport Core, Order
from carp_fast.engine._lanes cimport Lanes
from carp_fast.pump._netlink cimport Netlink
from carp_fast.engine._receive cimport FrameHeard
from carp_fast.pump._socket cimport BATCH, ReceiveBatch, SendBatch
from carp_fast.engine._vhid cimport Block
from carp_fast.engine._wire cimport FRAME_ROOM

cdef enum:
    ORDERS = 4096               # ring of orders, a power of two
    ORDERS_A_TURN = 512
    SLICES_A_TURN = 16          # receive batches before orders get a turn
    CHANGES_A_TURN = 8          # address or announcement batches before the next receive
    TURNS_AN_INTERVAL = 4       # the shortest one, where there is more to do than fits
    IFINDEX_MAP = 16384         # open addressing, at most a quarter full
    RECEIVERS_MAX = 6           # a packet socket, or a raw one of each family, for each lane

cdef enum Scheduling:
    SCHEDULED_NORMAL
    SCHEDULED_NICE
    SCHEDULED_FIFO

cdef struct IfindexEntry:
    int32_t ifindex             # 0: free
    uint16_t number

cdef struct OrderRing:          # one writer (Python), one reader (the pump)
    Order orders[ORDERS]
    uint64_t head
    uint64_t tail

cdef struct Receiver:
    int fd
    uint8_t kind                # a ReceiverKind
    uint8_t lane                # a Lane
    uint32_t dropped            # by a raw socket so far
    int64_t heard_until_ns      # every frame that arrived here before has been given to the engine

cdef struct Outcome:            # of one host's outputs
    uint32_t slot
    uint32_t failures
    int32_t error               # errno of one

cdef struct PumpState:
    Core* core
    Receiver receivers[RECEIVERS_MAX]   # by lane
    uint32_t receiver_count
    Lanes lanes
    int send_fd
    int raw_fds[2]              # of unicast, IPv4 and IPv6; -1: none
    int epoll_fd
    int timer_fd
    int order_fd                # Python writes, the pump reads
    int report_fd               # the pump writes, Python reads
    bint watching               # the receive sockets are in the epoll set
    bint stopping
    bint more                   # something is left to do at once
    bint lost_priority          # the real-time budget was spent
    uint8_t scheduling
    uint8_t wanted_scheduling
    int32_t thread_id
    int64_t last_turn_ns        # when the last turn began; 0: none yet
    int64_t turn_ends_ns        # what is left to do then waits for the next one
    int64_t planned_ns          # when the pump meant to run next; 0: not before something happens
    int64_t heard_until_ns      # silence counts up to here
    int64_t suspended_ns        # CLOCK_BOOTTIME - CLOCK_MONOTONIC
    uint64_t reported           # tail of the report ring when Python was last woken
    uint64_t turns
    uint64_t frames
    uint64_t dropped
    uint64_t untold[2]          # dropped and not told yet; [1]: silence proves nothing
    int64_t drops_told_ns[2]    # when that was last told
    int64_t latest_ns           # the largest lateness of a planned run so far
    OrderRing ring
    IfindexEntry ifindexes[IFINDEX_MAP]
    ReceiveBatch receiving
    FrameHeard heard[BATCH]          # of `receiving`, those on our interfaces
    SendBatch sending
    SendBatch unicast[2]        # IPv4, IPv6
    Outcome outcomes[3 * BATCH]
    uint8_t announcements[BATCH][FRAME_ROOM]
    Netlink netlink
    uint32_t changed[256]       # hosts whose changes end in this batch
    # A long list of addresses goes on in the next batch, unless its block was replaced or released.
    uint32_t changing           # whose changes go on, or NOBODY
    uint32_t changing_at        # its next address
    Block* changing_block
    uint32_t announcing
    uint32_t announcing_at
    Block* announcing_block

cdef void run_due(PumpState* pump) noexcept nogil
