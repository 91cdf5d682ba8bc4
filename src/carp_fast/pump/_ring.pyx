"""The reader of a ring of frames that a BPF program writes (net/rings.py).

Any number of CPUs write, and this is the only reader. A slot that is reserved and not published yet
blocks the ring: what is behind it is read later. Uses memory alone, no system call: who watches a
ring is woken through the socket whose filter the program is, or a ring buffer map. The frames stay
where they are until their slots are given back.
"""

from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

cdef extern from "atomic.h" nogil:
    uint32_t load_acquire_32(const uint32_t* p) noexcept
    uint32_t exchange_32(uint32_t* p, uint32_t x) noexcept
    uint64_t load_acquire(const uint64_t* p) noexcept
    void store_release(uint64_t* p, uint64_t x) noexcept

assert sizeof(RingSlot) == 128 and sizeof(RingControl) == 256


cdef int ring_open(Ring* ring, tuple memory) except -1:
    """Begin with an empty ring. `memory`: the addresses of its control and slots, and their number.

    Raises ValueError.
    """
    cdef size_t control, slots
    cdef uint64_t count
    control, slots, count = memory
    if count == 0 or count & (count - 1):
        raise ValueError(f"a ring of {count} slots: must be a power of two")
    memset(ring, 0, sizeof(Ring))
    ring.control, ring.slots, ring.mask = <RingControl*>control, <RingSlot*>slots, count - 1
    return 0


cdef void ring_wake_by(Ring* ring, size_t taken, size_t given) noexcept:
    """Use a ring buffer map for waking: the addresses of its two positions."""
    ring.taken, ring.given = <uint64_t*>taken, <const uint64_t*>given


cdef bint ring_take_waking(Ring* ring) noexcept nogil:
    """Take what woke the reader out of its map, so that this is not readable; False: it has none.
    """
    if ring.given == NULL:
        return False
    store_release(ring.taken, load_acquire(ring.given))
    return True


cdef void ring_give_back(Ring* ring) noexcept nogil:
    """Give the slots read so far back to the writers."""
    store_release(&ring.control.tail, ring.next)


cdef void ring_begin(Ring* ring) noexcept nogil:
    """Begin to read what was reserved until now; the slots read before are given back."""
    ring_give_back(ring)
    ring.end = load_acquire(&ring.control.head)


cdef const RingSlot* ring_next(Ring* ring) noexcept nogil:
    """The next frame, or NULL: all are read, or the next one is not published yet."""
    cdef const RingSlot* slot
    cdef int32_t ahead
    while ring.next != ring.end:
        slot = &ring.slots[ring.next & ring.mask]
        ahead = <int32_t>(load_acquire_32(&slot.sequence) - <uint32_t>(ring.next + 1))
        if ahead < 0:
            return NULL
        ring.next += 1
        if ahead == 0 and slot.length:
            return slot
        ring.lost += 1
    return NULL


cdef bint ring_is_blocked(const Ring* ring) noexcept nogil:
    """Whether frames that were reserved when reading began have not been read."""
    return ring.next != ring.end


cdef uint32_t ring_drops(Ring* ring) noexcept nogil:
    """The frames that were dropped since the last call."""
    cdef uint64_t dropped = load_acquire(&ring.control.full) + ring.lost
    cdef uint32_t more = <uint32_t>(dropped - ring.told)
    ring.told = dropped
    return more


cdef bint ring_watch(Ring* ring) noexcept nogil:
    """Let the next frame wake the reader; True: one came meanwhile, and may have woken none."""
    exchange_32(&ring.control.watching, 1)
    return load_acquire(&ring.control.head) != ring.next


cdef void ring_ignore(Ring* ring) noexcept nogil:
    """Let no frame wake the reader any more; one may be doing so at this moment."""
    exchange_32(&ring.control.watching, 0)


cdef class RingReader:
    """A ring's reader without the pump, for tests. Addresses of the control and of the slots."""
    cdef Ring ring

    def __cinit__(self, size_t control, size_t slots, uint64_t count):
        ring_open(&self.ring, (control, slots, count))

    def read(self, int limit=1 << 20) -> list:
        """The frames that can be read, at most `limit`: (ifindex, arrived_ns, length, bytes)."""
        cdef const RingSlot* slot = NULL
        cdef list frames = []
        ring_begin(&self.ring)
        while len(frames) < limit:
            slot = ring_next(&self.ring)
            if slot == NULL:
                break
            frames.append((slot.ifindex, slot.arrived_ns, slot.length,
                           slot.frame[:min(slot.length, <uint16_t>RING_FRAME)]))
        return frames

    @property
    def blocked(self) -> bool:
        """Whether a frame that is not published keeps others from being read."""
        return ring_is_blocked(&self.ring)

    def give_back(self) -> None:
        """Give the slots read so far back to the writers."""
        ring_give_back(&self.ring)

    def drops(self) -> int:
        """The frames dropped since the last call."""
        return ring_drops(&self.ring)

    def watch(self) -> bool:
        """Let the next frame wake the reader; whether one came meanwhile."""
        return ring_watch(&self.ring)

    def ignore(self) -> None:
        """Let no frame wake the reader."""
        ring_ignore(&self.ring)
