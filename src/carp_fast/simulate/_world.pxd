"""A simulated world as a Python class, and its faults."""

from libc.stdint cimport uint32_t, uint64_t

from carp_fast.simulate._network cimport Machine, World

cdef enum FaultKind:
    FAULT_LINK                  # segment, machine -> other, slot: which field
    FAULT_PAUSE                 # value: a Pause
    FAULT_RESUME
    FAULT_CRASH
    FAULT_BOOT
    FAULT_NIC                   # segment, value: a NicFault
    FAULT_SOURCE                # segment, value: families as bits that it has an address of
    FAULT_KEY                   # slot, value: 1 the other passphrase, 0 the right one
    FAULT_REPLACE               # slot, value: 1 another priority, 0 the configured one
    FAULT_SEND_ERRORS           # slot: 0 IPv4, 1 IPv6; value: probability
    FAULT_NETLINK_ERRORS        # value: probability
    FAULT_SLOW_NETLINK          # value: ns for each address
    FAULT_LOCK_HELD             # value: 1: no request to the kernel goes on; 0: it ends
    FAULT_SECONDARIES           # value: probability that an address goes with another
    FAULT_CLOCK_STEP            # value: ns
    FAULT_ADDRESS_REMOVED       # slot, value: which address
    FAULT_ADDRESS_LEFT          # slot, value: which address of ours a BACKUP has
    FAULT_ADDRESS_LOST          # slot
    FAULT_DEMOTE                # slot, value: DemotedBy << 16 | amount
    FAULT_BAR                   # slot, value: whether another process has it
    FAULT_BY_ROUTE              # slot, value: whether its IPv4 addresses are local routes
    FAULT_YIELD                 # slot, value: whether for maintenance
    FAULT_PREEMPT               # slot
    FAULT_MAINTENANCE           # value: 0 off, 1 on, 2 forced; written down at once
    FAULT_REMOVE                # slot
    FAULT_ADD                   # slot
    FAULT_RESIGN_ALL
    FAULT_FLOOD                 # slot: frames a tick; value: probability that one finds no room
    FAULT_QUIET                 # all faults are over
    FAULT_UPGRADE               # another engine goes on from the state of this one
    FAULT_KINDS

cdef class Random:
    cdef uint64_t state

cdef class Simulator:
    cdef World* world
    cdef list kept              # the prepared hosts that machines start from
    cdef open_machines(self)
    cdef Machine* machine(self, uint32_t number) except NULL
    cdef check_memory(self)
