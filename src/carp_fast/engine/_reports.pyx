"""The reports in the engine's ring as Python objects: a class for each kind, see reports.py.

They are made when Python takes them, never in the pump's thread.
"""

from libc.stdint cimport uint8_t, uint32_t

from carp_fast.engine._core cimport (
    ADDRESSES_CHANGED, ADDRESS_FAILED, ADDRESS_FOREIGN, ADDRESS_GONE, ADDRESS_RESTORED,
    CLONES_GIVEN_UP, COUNTER_RESET, DEMOTE_HEARD, DONE, DUPLICATE_ENDED, DUPLICATE_SOURCE,
    FAMILY_HEARD, FAMILY_SILENT, GROUP_CHANGED, LOST_PRIORITY, REASSERTED, RELEASED, REPORTS,
    RESIGNED_HOLDING, Report, SECONDARIES, SENDS_FAILING, SOCKET_DROPPED, SOURCE_PROVEN, STALLED,
    STATE_CHANGED, WRONG_DIGEST)
from carp_fast.engine._vhid cimport BY_ADDRESS, DEMOTIONS
from carp_fast.engine._wheel cimport NOBODY

import carp_fast.engine.reports as _reports
from carp_fast.engine._vhid import (
    DEMOTION_WORDS as _DEMOTIONS, REASON_WORDS as _REASONS, STATE_WORDS as _STATES)

cdef tuple WHY = ("refused", "removed", "with_ours", "route")   # by RestoredWhy
cdef tuple WHY_CLONES = ("run", "unread", "uncounted", "refused")   # by GivenUp (pump/_clones.pxd)
cdef tuple CLASSES = (                                  # by ReportKind
    _reports.StateChanged, _reports.AddressesChanged, _reports.AddressFailed,
    _reports.AddressForeign, _reports.AddressRestored, _reports.AddressGone, _reports.Undemoted,
    _reports.SecondariesNotPromoted, _reports.DuplicateSource, _reports.OtherMaster,
    _reports.DemoteHeard, _reports.SendsFailing, _reports.SendsRecovered, _reports.Released,
    _reports.Done, _reports.Stalled, _reports.SocketDropped, _reports.LostPriority,
    _reports.Reasserted, _reports.WrongDigest, _reports.CounterReset, _reports.FamilySilent,
    _reports.FamilyHeard, _reports.SourceProven, _reports.DuplicateEnded,
    _reports.ResignedHolding, _reports.ClonesGivenUp, _reports.GroupChanged)
cdef object ConfigurationReleased = _reports.ConfigurationReleased
assert len(CLASSES) == REPORTS


cdef bytes address_bytes(const uint8_t* address, uint8_t family):
    return (<const char*>address)[:4 if family == 4 else 16]


cdef object peer_of(const Report* report):
    return address_bytes(report.peer, report.peer_family) if report.peer_family else None


cdef tuple demotions_of(const Report* report):
    """(reason, amount) of each demotion of a host whose state has changed."""
    cdef int by
    if not report.value:
        return ()
    return tuple([(_REASONS[report.detail] if by == BY_ADDRESS else _DEMOTIONS[by],
                   report.value >> 8 * by & 255)
                  for by in range(DEMOTIONS) if report.value >> 8 * by & 255])


cdef tuple slots_in(const Report* report):
    """The slots of the members that a report of a group names."""
    cdef const uint32_t* named = <const uint32_t*>report.peer
    cdef int i
    return tuple([named[i] - 1 for i in range(4) if named[i]])


cdef object report_object(const Report* report):
    """A report of its kind's class; the arguments are in the order of the class's fields."""
    cdef object kind = <object>CLASSES[report.kind]
    if report.slot == NOBODY:
        return pump_report(kind, report)
    if report.kind == STATE_CHANGED:
        return kind(report.at_ns, report.slot, _STATES[report.state], _STATES[report.previous],
                    _REASONS[report.reason], peer_of(report), demotions_of(report))
    if report.kind == ADDRESSES_CHANGED:
        return kind(report.at_ns, report.slot, _STATES[report.state], _REASONS[report.reason],
                    report.configuration)
    if report.kind == ADDRESS_FAILED:
        return kind(report.at_ns, report.slot, report.detail, report.configuration,
                    _STATES[report.state], report.value)
    if report.kind == ADDRESS_RESTORED:
        return kind(report.at_ns, report.slot, report.detail, report.configuration,
                    WHY[report.value])
    if report.kind in (ADDRESS_FOREIGN, ADDRESS_GONE):
        return kind(report.at_ns, report.slot, report.detail, report.configuration)
    if report.kind in (SENDS_FAILING, DEMOTE_HEARD, FAMILY_SILENT, FAMILY_HEARD, RESIGNED_HOLDING):
        return kind(report.at_ns, report.slot, report.value)
    if report.kind in (DUPLICATE_SOURCE, DUPLICATE_ENDED, COUNTER_RESET):
        return kind(report.at_ns, report.slot, (<const char*>report.mac)[:6])
    if report.kind == WRONG_DIGEST:
        return kind(report.at_ns, report.slot, _STATES[report.state])
    if report.kind == REASSERTED:
        return kind(report.at_ns, report.slot, peer_of(report))
    if report.kind == GROUP_CHANGED:
        return kind(report.at_ns, report.slot, report.detail, bool(report.state),
                    report.value >> 32, report.value & 0xffffffff, slots_in(report))
    return kind(report.at_ns, report.slot)


cdef object pump_report(object kind, const Report* report):
    """A report that is not about a virtual host."""
    if report.kind in (DONE, STALLED):
        return kind(report.at_ns, report.value)
    if report.kind == RELEASED:
        return ConfigurationReleased(report.at_ns)
    if report.kind == SOURCE_PROVEN:
        return kind(report.at_ns, report.value, peer_of(report))
    if report.kind == SOCKET_DROPPED:
        return kind(report.at_ns, report.value, bool(report.detail))
    if report.kind == SECONDARIES:
        return kind(report.at_ns, report.detail, report.value)
    if report.kind == CLONES_GIVEN_UP:
        interface = None if report.detail == NOBODY else report.detail
        return kind(report.at_ns, interface, WHY_CLONES[report.reason], report.value)
    assert report.kind == LOST_PRIORITY
    return kind(report.at_ns)
