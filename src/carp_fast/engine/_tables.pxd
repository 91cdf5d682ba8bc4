"""The tables of the fields of a state that another process takes over, and their order."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from carp_fast.engine._fields cimport Table

cdef enum Section:              # the kinds of records of a state, in their order
    OF_ENGINE
    OF_ABSENCE
    OF_INTERFACE
    OF_REJECTION
    OF_HOST
    OF_SOURCE
    OF_ADDRESS
    OF_KEY
    OF_QUEUED
    OF_TURN
    OF_RECEIVER
    SECTIONS

cdef enum QueueNumber:
    IN_ADVERTISE_FIRST
    IN_ADVERTISE
    IN_OWED
    IN_CHANGE
    IN_ANNOUNCE
    IN_REPEAT
    QUEUES

cdef enum:
    RECEIVERS = 16              # of a pump, at most
    WORD_ROOM = 8

cdef struct Queued:
    uint8_t queue               # a QueueNumber

cdef struct TurnState:          # of a pump's turn
    int64_t begun_ns
    int64_t suspended_ns
    int64_t latest_ns
    uint64_t turns
    uint64_t frames
    uint64_t dropped
    uint64_t unproven

cdef struct ReceiverState:
    int64_t heard_until_ns      # every frame that arrived until then has been processed
    char kind[WORD_ROOM]
    char lane[WORD_ROOM]

cdef struct Pumped:             # what a pump adds to the state of its engine
    TurnState turn
    ReceiverState receivers[RECEIVERS]
    uint32_t receiver_count

cdef Table TABLES[SECTIONS]
