"""The state of an engine as one flat array, with the table of its fields.

Another process, of another version even, goes on from it (_placing.pyx). The array begins with a
head, the places of its kinds of records, and a row for each field: its name, place, width and
count. Records are copied field by field, in runs where fields adjoin, with nothing between them.
Times are CLOCK_MONOTONIC, ns: reader and writer are on one machine. Uses no socket, clock or file.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from carp_fast.engine._absence cimport ABSENCES
from carp_fast.engine._core cimport Core, Interface, Queue, REJECTIONS, Rejection
from carp_fast.engine._fields cimport Field, NAME_ROOM, Table
from carp_fast.engine._tables cimport (
    IN_ADVERTISE, IN_ADVERTISE_FIRST, IN_ANNOUNCE, IN_CHANGE, IN_OWED, OF_ABSENCE,
    OF_ADDRESS, OF_ENGINE, OF_HOST, OF_INTERFACE, OF_KEY, OF_QUEUED, OF_RECEIVER, OF_REJECTION,
    OF_SOURCE, OF_TURN, Queued, QUEUES, RECEIVERS, TABLES)
from carp_fast.engine._vhid cimport IN_USE, SOURCES, vhid_source, VirtualHost
from carp_fast.engine._wheel cimport NOBODY

from carp_fast.engine._tables import SECTION_WORDS, WORDS

cdef enum:
    LAYOUT = 1                  # of head, parts and rows
    PART_NAME_ROOM = 16
    NUMBER = 4                  # bytes of what a record is of
    QUEUES_OF_A_HOST = 4        # one for advertisements, changes, announcements, repeats

cdef struct Head:
    uint8_t magic[8]
    uint32_t layout
    uint32_t part_count
    uint32_t row_count
    uint32_t unused
    uint64_t length             # of all, bytes

cdef struct PartHead:
    char name[PART_NAME_ROOM]
    uint64_t at
    uint64_t count
    uint32_t stride
    uint32_t unused

cdef struct Row:                # a word has the width 0, and its number in the place of its place
    char part[PART_NAME_ROOM]
    char name[NAME_ROOM]
    uint32_t at
    uint32_t width
    uint32_t count
    uint32_t unused

cdef bytes MAGIC = b"carpfast"
cdef bytes WORDS_PART = b"words"


# ---------------------------------------------------------------------------------------- writing

cdef void make_runs(Part* part, const Table* table) noexcept nogil:
    """The runs of records as they are written here."""
    cdef const Field* field
    cdef uint32_t k, length
    memset(part, 0, sizeof(Part))
    part.stride = NUMBER
    for k in range(table.count):
        field = &table.fields[k]
        length = field.width * field.count
        add_run(part, part.stride, field.at, length)
        part.stride += length
    part.stride += -part.stride % NUMBER


cdef void add_run(Part* part, uint32_t record_at, uint32_t struct_at,
                  uint32_t length) noexcept nogil:
    cdef Run* last = &part.runs[part.run_count - 1] if part.run_count else NULL
    if last != NULL and last.record_at + last.length == record_at and (
            last.struct_at + last.length == struct_at):
        last.length += length
        return
    last = &part.runs[part.run_count]
    last.record_at, last.struct_at, last.length = record_at, struct_at, length
    part.run_count += 1


cdef void part_get(const Part* part, uint64_t which, void* to) noexcept nogil:
    """Copy the fields of a record into its struct; the others stay."""
    cdef const uint8_t* record = part.bytes + which * part.stride
    cdef uint32_t k
    for k in range(part.run_count):
        memcpy(<uint8_t*>to + part.runs[k].struct_at, record + part.runs[k].record_at,
               part.runs[k].length)


cdef uint32_t part_field(const Part* part, size_t struct_at) noexcept nogil:
    """Where in a record the field at this place of its struct is, or NO_FIELD."""
    cdef const Run* run
    cdef uint32_t k
    for k in range(part.run_count):
        run = &part.runs[k]
        if run.struct_at <= struct_at < run.struct_at + run.length:
            return run.record_at + <uint32_t>struct_at - run.struct_at
    return NO_FIELD


cdef inline void part_add(Part* part, uint32_t of, const void* what) noexcept nogil:
    """Write the next record; there is room for it."""
    cdef uint8_t* record = part.bytes + part.count * part.stride
    cdef uint32_t k
    (<uint32_t*>record)[0] = of
    for k in range(part.run_count):
        memcpy(record + part.runs[k].record_at, <const uint8_t*>what + part.runs[k].struct_at,
               part.runs[k].length)
    part.count += 1


cdef const Queue* queue_of(const Core* core, int number) noexcept nogil:
    if number == IN_ADVERTISE_FIRST:
        return &core.advertise_first
    if number == IN_ADVERTISE:
        return &core.advertise
    if number == IN_OWED:
        return &core.owed
    if number == IN_CHANGE:
        return &core.change
    return &core.announce if number == IN_ANNOUNCE else &core.repeat


cdef uint64_t lay_out(const Core* core, Part* parts, uint64_t begin) noexcept nogil:
    """Give every part its place behind `begin`, with room for all records that there can be: the
    length of all. Its `bytes` are offsets, and nothing is counted yet.
    """
    cdef uint64_t room[SECTIONS]
    cdef int part
    room[<int>OF_ENGINE] = room[<int>OF_TURN] = 1
    room[<int>OF_ABSENCE] = ABSENCES
    room[<int>OF_INTERFACE] = core.interface_count
    room[<int>OF_REJECTION] = core.interface_count * REJECTIONS
    room[<int>OF_HOST] = core.used
    room[<int>OF_SOURCE] = core.used * SOURCES
    room[<int>OF_ADDRESS], room[<int>OF_KEY] = core.addresses, core.former_keys
    room[<int>OF_QUEUED] = core.used * QUEUES_OF_A_HOST
    room[<int>OF_RECEIVER] = RECEIVERS
    for part in range(SECTIONS):
        make_runs(&parts[part], &TABLES[part])
        parts[part].bytes = <uint8_t*>begin
        begin += room[part] * parts[part].stride
        begin += -begin % 8
    return begin


cdef uint32_t count_rows() noexcept:
    cdef uint32_t count = <uint32_t>len(WORDS)
    cdef int part
    for part in range(SECTIONS):
        count += TABLES[part].count + 1
    return count


cdef uint64_t head_length() noexcept:
    return sizeof(Head) + SECTIONS * sizeof(PartHead) + count_rows() * sizeof(Row)


cdef uint64_t state_size(const Core* core) noexcept:
    """Bytes that the state may need, however many sources it has heard by then."""
    cdef Part parts[SECTIONS]
    return lay_out(core, parts, head_length())


cdef void write_interfaces(const Core* core, Part* parts) noexcept nogil:
    cdef const Interface* interface
    cdef const Rejection* rejection
    cdef uint32_t number, k
    for number in range(core.interface_count):
        interface = &core.interfaces[number]
        part_add(&parts[<int>OF_INTERFACE], number, interface)
        for k in range(REJECTIONS):                     # the oldest first
            rejection = &interface.rejections[(interface.rejections_count + k) & (REJECTIONS - 1)]
            if rejection.at_ns:
                part_add(&parts[<int>OF_REJECTION], number, rejection)


cdef void write_host(Part* parts, uint32_t slot, const VirtualHost* host) noexcept nogil:
    """Write a host, its sources, its addresses, and the former keys that it accepts for a while."""
    cdef uint32_t place = <uint32_t>parts[<int>OF_HOST].count, k
    part_add(&parts[<int>OF_HOST], slot, host)
    for k in range(SOURCES):
        if vhid_source(host, k).family:                 # also one that is free again
            part_add(&parts[<int>OF_SOURCE], place * SOURCES_APART + k, vhid_source(host, k))
    for k in range(host.block.address_count):
        part_add(&parts[<int>OF_ADDRESS], place, &host.block.addresses[k])
    for k in range(host.block.permanent_count, host.block.alternate_count):
        if host.block.alternates[k].until_ns:
            part_add(&parts[<int>OF_KEY], place, &host.block.alternates[k])


cdef uint32_t write_records(const Core* core, const Pumped* pumped, Part* parts,
                            uint32_t* places) noexcept nogil:
    """Write all records; the slot of a host that waits for an outcome, or NOBODY."""
    cdef const Queue* queue
    cdef Queued queued
    cdef uint32_t slot, k, at
    part_add(&parts[<int>OF_ENGINE], 0, core)
    for k in range(core.absences.count):
        part_add(&parts[<int>OF_ABSENCE], k, &core.absences.kept[k])
    write_interfaces(core, parts)
    for slot in range(core.slots):
        places[slot] = NOBODY
        if core.hosts[slot].flags & IN_USE:
            if core.hosts[slot].asked:
                return slot
            places[slot] = <uint32_t>parts[<int>OF_HOST].count
            write_host(parts, slot, &core.hosts[slot])
    for k in range(QUEUES):
        queue, queued.queue = queue_of(core, k), <uint8_t>k
        at = queue.head
        while at != queue.tail:
            slot = queue.slots[at]
            if places[slot] != NOBODY and core.hosts[slot].pending:
                part_add(&parts[<int>OF_QUEUED], places[slot], &queued)
            at = at + 1 if at + 1 < queue.capacity else 0
    if pumped != NULL:
        part_add(&parts[<int>OF_TURN], 0, &pumped.turn)
        for k in range(pumped.receiver_count):
            part_add(&parts[<int>OF_RECEIVER], k, &pumped.receivers[k])
    return NOBODY


cdef Row* put_row(Row* row, bytes part, bytes name, uint32_t at, uint32_t width,
                  uint32_t count) noexcept:
    memcpy(row.part, <const char*>part, len(part))
    memcpy(row.name, <const char*>name, len(name))
    row.at, row.width, row.count = at, width, count
    return row + 1


cdef void write_head(uint8_t* out, const Part* parts, uint64_t length) noexcept:
    cdef Head* head = <Head*>out
    cdef PartHead* part_head = <PartHead*>(head + 1)
    cdef Row* row = <Row*>(part_head + SECTIONS)
    cdef const Field* field
    cdef uint32_t k, at
    cdef int part
    memset(out, 0, head_length())
    memcpy(head.magic, <const char*>MAGIC, 8)
    head.layout, head.part_count, head.row_count = LAYOUT, SECTIONS, count_rows()
    head.length = length
    for part in range(SECTIONS):
        name = SECTION_WORDS[part].encode()
        memcpy(part_head[part].name, <const char*><bytes>name, len(name))
        part_head[part].at = <uint64_t>(parts[part].bytes - out)
        part_head[part].count, part_head[part].stride = parts[part].count, parts[part].stride
        row, at = put_row(row, name, b"of", 0, NUMBER, 1), NUMBER
        for k in range(TABLES[part].count):
            field = &TABLES[part].fields[k]
            row = put_row(row, name, <bytes>field.name, at, field.width, field.count)
            at += field.width * field.count
    for word, number in WORDS.items():
        row = put_row(row, WORDS_PART, word.encode(), number, 0, 0)


cdef int64_t state_write(const Core* core, const Pumped* pumped, buffer) except -1:
    """Write the state into a writable buffer: how many bytes of it are used.

    Raises ValueError if there is less room than state_size(), or if a change of an address has no
    outcome yet.
    """
    cdef Part parts[SECTIONS]
    cdef Py_buffer view
    cdef uint64_t size = lay_out(core, parts, head_length())
    cdef uint32_t* places
    cdef uint32_t slot
    cdef int part
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    places = <uint32_t*>calloc(core.slots + 1, sizeof(uint32_t))
    try:
        if places == NULL:
            raise MemoryError("state")
        if <uint64_t>view.len < size:
            raise ValueError(f"room for {view.len} bytes: the state may need {size}")
        for part in range(SECTIONS):
            parts[part].bytes = <uint8_t*>view.buf + <size_t>parts[part].bytes
        with nogil:
            slot = write_records(core, pumped, parts, places)
        if slot != NOBODY:
            raise ValueError(f"the host in slot {slot} waits for the outcome of a change")
        write_head(<uint8_t*>view.buf, parts, size)
    finally:
        free(places)
        PyBuffer_Release(&view)
    return <int64_t>size


# ---------------------------------------------------------------------------------------- reading

cdef str text_of(const char* name, size_t room):
    """A name that fills at most its room less one byte, or ValueError."""
    cdef bytes found = name[:room]
    if b"\0" not in found:
        raise ValueError("the state has a name without an end")
    return found[:found.index(b"\0")].decode("ascii", "replace")


cdef class State:
    """A state in a buffer, its head and table checked. Keep the buffer as it is meanwhile.

    Raises ValueError for what is not a state or is cut off, and where a field of it is unknown
    here, has another width or more elements, or a word has another number: with its name.
    """

    def __init__(self, buffer) -> None:
        if self.held:
            raise ValueError("a State has one buffer")
        PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE)
        self.held = True
        self.rows = []
        memset(self.parts, 0, sizeof(self.parts))
        self.read_head()

    def __dealloc__(self) -> None:
        if self.held:
            PyBuffer_Release(&self.view)

    cdef int read_head(self) except -1:
        cdef const Head* head = <const Head*>self.view.buf
        cdef const PartHead* part_head = <const PartHead*>(head + 1)
        cdef uint64_t length = <uint64_t>self.view.len
        cdef uint32_t k
        cdef Part* part
        if length < sizeof(Head) or memcmp(head.magic, <const char*>MAGIC, 8) != 0:
            raise ValueError("not a state of carp-fast")
        if head.layout != LAYOUT:
            raise ValueError(f"a state of layout {head.layout}, not {LAYOUT}")
        if head.length > length or (
                sizeof(Head) + head.part_count * <uint64_t>sizeof(PartHead)
                + head.row_count * <uint64_t>sizeof(Row)) > head.length:
            raise ValueError(f"the state is cut off: {length} bytes of {head.length}")
        for k in range(head.part_count):
            name = text_of(part_head[k].name, PART_NAME_ROOM)
            if name not in SECTION_WORDS:
                raise ValueError(f"{name}: records that this version does not know")
            part = &self.parts[<int>SECTION_WORDS.index(name)]
            part.count, part.stride = part_head[k].count, part_head[k].stride
            if part.stride < NUMBER or (part.stride | part_head[k].at) % NUMBER or (
                    part_head[k].at > head.length) or (
                    part.count > (head.length - part_head[k].at) // part.stride):
                raise ValueError(f"{name}: its records are not within the state")
            part.bytes = <uint8_t*>self.view.buf + part_head[k].at
        return self.read_rows(sizeof(Head) + head.part_count * sizeof(PartHead), head.row_count)

    cdef int read_rows(self, uint64_t at, uint32_t count) except -1:
        cdef const Row* row = <const Row*>(<const uint8_t*>self.view.buf + at)
        cdef uint32_t k
        for k in range(count):
            part = text_of(row[k].part, PART_NAME_ROOM)
            name = text_of(row[k].name, NAME_ROOM)
            self.rows.append((part, name, row[k].at, row[k].width, row[k].count))
            if part == "words":
                expect_word(name, row[k].at)
            elif part in SECTION_WORDS:
                number = SECTION_WORDS.index(part)
                read_row(&self.parts[<int>number], &TABLES[<int>number], &row[k],
                         f"{part}.{name}", name)
            else:
                raise ValueError(f"{part}.{name}: of records that this version does not know")
        return 0

    @property
    def table(self) -> list:
        """(part, name, place, width, count) of each field; "words" has the numbers of words."""
        return list(self.rows)

    def count(self, str part) -> int:
        """How many records of a kind there are."""
        return self.parts[<int>SECTION_WORDS.index(part)].count

    def records(self, str part) -> list:
        """The records of a kind, each a dict of its fields: a number, or bytes of an array."""
        cdef const Part* found = &self.parts[<int>SECTION_WORDS.index(part)]
        cdef uint64_t k
        cdef list records = []
        fields = [row[1:] for row in self.rows if row[0] == part]
        for k in range(found.count):
            data = (<const char*>found.bytes + k * found.stride)[:found.stride]
            records.append({
                name: int.from_bytes(data[at:at + width], "little") if count == 1
                else data[at:at + width * count] for name, at, width, count in fields})
        return records


cdef int expect_word(str name, uint32_t number) except -1:
    if name not in WORDS:
        raise ValueError(f"{name}: a word that this version does not know")
    if WORDS[name] != number:
        raise ValueError(f"{name}: has the number {number} in the state, here {WORDS[name]}")
    return 0


cdef int read_row(Part* part, const Table* table, const Row* row, str full, str name) except -1:
    """Add the runs of a field of the state to those that are copied here."""
    cdef const Field* field = NULL
    cdef uint32_t k
    if <uint64_t>row.at + <uint64_t>row.width * row.count > part.stride:
        raise ValueError(f"{full}: not within its record")
    if name == "of":
        if row.width != NUMBER or row.at != 0:
            raise ValueError(f"{full}: {row.width} bytes at {row.at}, not {NUMBER} at 0")
        return 0
    for k in range(table.count):
        if (<bytes>table.fields[k].name).decode() == name:
            field = &table.fields[k]
    if field == NULL:
        raise ValueError(f"{full}: a field that this version does not know")
    if field.width != row.width or row.count > field.count:
        raise ValueError(f"{full}: {row.count} of {row.width} bytes, here {field.count} of "
                         f"{field.width}")
    if part.run_count == FIELDS_MAX:
        raise ValueError(f"{full}: more than {FIELDS_MAX} fields")
    add_run(part, row.at, field.at, row.width * row.count)
    return 0
