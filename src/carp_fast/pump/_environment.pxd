"""The environment of a pump's turn: this machine's clock, sockets, addresses, Python's orders."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from carp_fast.engine._core cimport Core, Order
from carp_fast.pump._clones cimport Clones
from carp_fast.pump._refusals cimport Refusals
from carp_fast.pump._requests cimport Requests
from carp_fast.pump._ring cimport Ring
from carp_fast.pump._socket cimport ReceiveBatch, SendBatch
from carp_fast.pump._turn cimport RECEIVERS_MAX, Turn

cdef enum:
    ORDERS = 4096               # ring of orders, a power of two
    IFINDEX_MAP = 16384         # open addressing, at most a quarter full

cdef enum Freezing:
    FREEZE_NOT
    FREEZE_ASKED                # by Python; it may give up
    FREEZE_DONE                 # the pump sends and reads nothing

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

cdef struct Socket:             # the socket of a receiver of the turn
    int fd
    uint8_t kind                # a ReceiverKind
    uint32_t dropped            # by a raw socket, until the last call
    Ring ring                   # of RECEIVE_RING
    bint woken                  # ... its socket has what woke the pump

cdef struct PumpState:
    Turn turn
    Socket sockets[RECEIVERS_MAX]
    int send_fd
    int raw_fds[2]              # for unicast, IPv4 and IPv6; -1: none
    int epoll_fd
    int timer_fd
    int order_fd                # Python writes, the pump reads
    int report_fd               # the pump writes, Python reads
    bint watching               # the receive sockets are in the epoll set
    bint stopping
    uint32_t freezing           # a Freezing; Python and the pump change it
    int frozen_fd               # the pump writes when it is frozen, Python reads
    bint lost_priority          # the real-time budget is used up
    uint8_t scheduling
    uint8_t wanted_scheduling
    int32_t thread_id
    int64_t armed_ns            # the timer's current setting
    uint64_t reported           # tail of the report ring when Python was last woken
    OrderRing ring
    IfindexEntry ifindexes[IFINDEX_MAP]
    Refusals refusals           # by the filters of rings
    ReceiveBatch receiving
    SendBatch sending
    SendBatch unicast[2]        # IPv4, IPv6
    Clones clones
    Requests requests           # for addresses

cdef void environment_open(PumpState* pump, Core* core) noexcept nogil
cdef bint orders_wait(const PumpState* pump) noexcept nogil
cdef void obey_all(PumpState* pump) noexcept nogil
cdef void map_interfaces(PumpState* pump) noexcept nogil
cdef void count_refusals(PumpState* pump, int sign) noexcept nogil
cdef void note_woken(PumpState* pump, int fd) noexcept nogil
cdef void run_due(PumpState* pump) noexcept nogil
