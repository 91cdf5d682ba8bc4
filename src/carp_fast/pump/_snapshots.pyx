"""Copies that the pump makes for Python: hosts, interfaces, records.

Python makes the room, and the pump fills it when it comes to the order: each is whole and of one
time. Nothing here is called in the pump's thread.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from carp_fast.engine._copies cimport (
    explained_host, host_copy, interface_dict, rejections_list)
from carp_fast.engine._core cimport Interface
from carp_fast.engine._recorder cimport Record, records_list
from carp_fast.engine._vhid cimport IN_USE, SOURCES, Source, VirtualHost
from carp_fast.engine._wheel cimport NOBODY


cdef class Snapshot:
    """Hosts or interfaces copied by the pump, each consistent; read it when its mark is done."""
    def __cinit__(self, uint32_t count, uint32_t first, bint interfaces):
        self.count, self.first = count, first
        if interfaces:
            self.of_interfaces = <Interface*>calloc(count or 1, sizeof(Interface))
        else:
            self.copy.hosts = <VirtualHost*>calloc(count or 1, sizeof(VirtualHost))
            self.copy.sources = <Source*>calloc(count * SOURCES or 1, sizeof(Source))
        if (self.of_interfaces == NULL if interfaces
                else self.copy.hosts == NULL or self.copy.sources == NULL):
            raise MemoryError("snapshot")

    def __dealloc__(self):
        free(self.copy.hosts)
        free(self.copy.sources)
        free(self.of_interfaces)

    def hosts(self) -> list:
        """(slot, HostCopy) of every slot in use."""
        cdef VirtualHost* hosts = self.copy.hosts
        cdef uint32_t i
        return [(self.first + i, host_copy(&hosts[i])) for i in range(self.count)
                if hosts[i].flags & IN_USE]

    def explained(self, int64_t now_ns) -> list:
        """(slot, ExplainedHost) of every slot in use."""
        cdef VirtualHost* hosts = self.copy.hosts
        cdef uint32_t i
        return [(self.first + i, explained_host(&hosts[i], now_ns)) for i in range(self.count)
                if hosts[i].flags & IN_USE]

    def counters(self) -> list:
        """The interface_dict of every interface."""
        cdef Interface* interfaces = self.of_interfaces
        cdef uint32_t i
        return [interface_dict(&interfaces[i]) for i in range(self.count)]

    def rejections(self) -> list:
        """The last RejectedFrames of every interface, newest first."""
        cdef Interface* interfaces = self.of_interfaces
        cdef uint32_t i
        return [rejections_list(&interfaces[i]) for i in range(self.count)]


cdef class Records:
    """Records copied by the pump; read them when their mark is done.

    `first` is at least the position requested: older records may be overwritten. `end` is the
    position after the newest, `begin` that of the first ever, `unrecorded` the number of refused
    frames that came too fast to be recorded.
    """
    def __cinit__(self, uint64_t first, uint32_t count):
        self.copy.first, self.copy.room = first, count
        self.copy.records = <Record*>calloc(count or 1, sizeof(Record))
        if self.copy.records == NULL:
            raise MemoryError("records")

    def __dealloc__(self):
        free(self.copy.records)

    @property
    def first(self) -> int:
        return self.copy.first

    @property
    def count(self) -> int:
        return self.copy.count

    @property
    def begin(self) -> int:
        return self.copy.begin

    @property
    def end(self) -> int:
        return self.copy.end

    @property
    def unrecorded(self) -> int:
        return self.copy.unrecorded

    def keep_only(self, bytes wanted) -> None:
        """Drop the records of virtual hosts other than those whose slot has a 1 in `wanted`.

        Records of no virtual host stay; `first` and `end` do not change.
        """
        cdef const uint8_t* flags = <const uint8_t*><const char*>wanted
        cdef uint32_t i, slot, kept = 0, slots = <uint32_t>len(wanted)
        cdef Record* smaller
        for i in range(self.copy.count):
            slot = self.copy.records[i].slot
            if slot == NOBODY or (slot < slots and flags[slot]):
                if kept != i:
                    self.copy.records[kept] = self.copy.records[i]
                kept += 1
        self.copy.count = kept
        smaller = <Record*>realloc(self.copy.records, (kept or 1) * sizeof(Record))
        if smaller != NULL:
            self.copy.records, self.copy.room = smaller, kept


def joined_records(list copies) -> list:
    """The records of consecutive copies, oldest first; see records_list."""
    cdef Records each
    cdef uint32_t total = 0, at = 0
    cdef Record* room
    for each in copies:
        total += each.copy.count
    room = <Record*>calloc(total or 1, sizeof(Record))
    if room == NULL:
        raise MemoryError("records")
    try:
        for each in copies:
            memcpy(room + at, each.copy.records, each.copy.count * sizeof(Record))
            at += each.copy.count
        return records_list(room, total)
    finally:
        free(room)
