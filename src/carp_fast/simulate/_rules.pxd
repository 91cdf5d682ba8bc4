"""The rules of CARP and its dialects, written a second time, independently of the engine."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from carp_fast.simulate._network cimport Frame, Machine, Nic, Slot, World
from carp_fast.engine._vhid cimport VirtualHost

cdef enum Expected:             # of a genuine frame
    TO_BE_TAKEN
    TO_BE_REFUSED
    EITHER

cdef uint32_t rule_advskew(const Slot* known, const VirtualHost* host) noexcept nogil
cdef uint32_t rule_demoted_by(const Slot* known, const VirtualHost* host, int by) noexcept nogil
cdef uint32_t rule_demote(const Slot* known, const VirtualHost* host) noexcept nogil
cdef uint32_t rule_interval(const Slot* known, const VirtualHost* host) noexcept nogil
cdef int64_t rule_interval_ns(const Slot* known, const VirtualHost* host) noexcept nogil
cdef uint32_t rule_least_advskew(const Slot* known) noexcept nogil
cdef int64_t rule_least_skew_ns(const Slot* known) noexcept nogil
cdef int64_t rule_least_master_down_ns(const Slot* known) noexcept nogil
cdef uint32_t rule_theirs(const Frame* frame) noexcept nogil
cdef uint64_t rule_counter(const Frame* frame) noexcept nogil
cdef bint rule_resigns(const Frame* frame) noexcept nogil
cdef bint rule_leaves(const Frame* frame, const VirtualHost* host) noexcept nogil
cdef bint rule_from_master(const Slot* known, const Frame* frame) noexcept nogil
cdef void rule_note_master(Slot* known, const Frame* frame, bint late) noexcept nogil
cdef bint rule_may_preempt(const Slot* known, const VirtualHost* host,
                           const Frame* frame) noexcept nogil
cdef bint rule_more_demoted(const Slot* known, const VirtualHost* host,
                            const Frame* frame) noexcept nogil
cdef bint rule_could_hold(const Slot* known, const VirtualHost* host) noexcept nogil
cdef bint rule_outdone(const Slot* known, const VirtualHost* host, const Frame* frame,
                       int64_t at_ns) noexcept nogil
cdef bint rule_yields(const Slot* known, const VirtualHost* host, const Nic* nic,
                      const Frame* frame, uint8_t reason) noexcept nogil
cdef bint rule_replaces(const Slot* known, const VirtualHost* host, const Slot* other,
                        const VirtualHost* master) noexcept nogil
cdef Expected rule_replay(const Slot* known, const VirtualHost* host, const Frame* frame,
                          bint own, int64_t at_ns) noexcept nogil
cdef int64_t rule_silence_until_ns(const Machine* machine, const Slot* known,
                                   const VirtualHost* host, int64_t heard_ns) noexcept nogil
cdef void rule_fell(Slot* known, const VirtualHost* host, int64_t at_ns) noexcept nogil
cdef int64_t rule_jitter_most_ns(const Slot* known, const VirtualHost* host) noexcept nogil
cdef void rule_heard_after_tie(Slot* known, const VirtualHost* host, const Frame* frame,
                               int64_t at_ns) noexcept nogil
cdef void rule_send(World* world, Slot* known, uint64_t counter, int64_t at_ns) noexcept nogil
cdef void rule_learn(World* world, Slot* known, const VirtualHost* host, const Frame* frame,
                     bint taken, int64_t at_ns) noexcept nogil
