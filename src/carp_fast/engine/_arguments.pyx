"""Orders filled in from what Python passes, checked.

Their functions raise ValueError, which names what is allowed.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

from carp_fast.engine._core cimport Interface, Order, ORDER_ADD, ORDER_DEMOTE, ORDER_YIELD
from carp_fast.engine._prepared cimport expect_bytes
from carp_fast.engine._vhid cimport (
    Address, BY_MAINTENANCE, BY_OPERATOR, BY_TRACK, HARD, MOST_DEMOTION, ORDERED_BY)

from carp_fast.engine._vhid import DEMOTION_WORDS as _DEMOTIONS, REASON_WORDS as _REASONS


cdef int fill_interface(Interface* interface, int ifindex, bint up, bytes mac, bytes source,
                        bytes source6, bint forwards6, bint renamed, bint announce) except -1:
    """Fill in the properties of an interface, for one order. Raises ValueError."""
    expect_bytes(mac, (6,), "a MAC")
    expect_bytes(source, (4,), "an IPv4 address")
    expect_bytes(source6, (16,), "an IPv6 address")
    memset(interface, 0, sizeof(Interface))
    interface.ifindex, interface.up = ifindex, up
    interface.forwards6, interface.renamed, interface.announce = forwards6, renamed, announce
    interface.has_source, interface.has_source6 = source is not None, source6 is not None
    memcpy(interface.mac, <const char*>mac, 6)
    if source is not None:
        memcpy(interface.source, <const char*>source, 4)
    if source6 is not None:
        memcpy(interface.source6, <const char*>source6, 16)
    return 0


cdef int fill_address(Address* to, bytes address, uint8_t prefixlen) except -1:
    """Fill in an address of 4 or 16 bytes, for one order. Raises ValueError."""
    expect_bytes(address, (4, 16), "an address")
    memset(to, 0, sizeof(Address))
    memcpy(to.bytes, <const char*>address, len(address))
    to.family, to.prefixlen = 4 if len(address) == 4 else 6, prefixlen
    return 0


cdef int demotion_order(Order* order, uint32_t slot, int demotion, str by, bint hard) except -1:
    """Fill in an order that sets the demotion by one reason, 0: none. Raises ValueError.

    `by`: "operator", "track", "group" or "maintenance". All are added to the advskew, to at most
    240, or in dialect "openbsd" to the demote byte. `hard`, of "track": the host cannot be MASTER,
    and resigns if it is when that begins.
    """
    if by not in _DEMOTIONS[:ORDERED_BY]:
        raise ValueError(f"{by}: must be one of {', '.join(_DEMOTIONS[:ORDERED_BY])}")
    if demotion < 0:
        raise ValueError(f"a demotion is not negative: {demotion}")
    memset(order, 0, sizeof(Order))
    if hard and by != "track":
        raise ValueError(f"{by}: only a track is a hard condition")
    order.kind, order.slot = ORDER_DEMOTE, slot
    order.value = min(demotion, MOST_DEMOTION) | (HARD if hard else 0)
    order.reason = <uint8_t><int>_DEMOTIONS.index(by)
    return 0


cdef void addition(Order* order, uint32_t slot, int operator, int track, bint hard,
                   int maintenance) noexcept:
    """Fill in an order that adds a host, but for its pointer, with its first demotions."""
    memset(order, 0, sizeof(Order))
    order.kind, order.slot, order.reason = ORDER_ADD, slot, hard
    order.value = (<int64_t>min(max(operator, 0), MOST_DEMOTION) << 8 * BY_OPERATOR
                   | <int64_t>min(max(track, 0), MOST_DEMOTION) << 8 * BY_TRACK
                   | <int64_t>min(max(maintenance, 0), MOST_DEMOTION) << 8 * BY_MAINTENANCE)


cdef int hand_over_order(Order* order, uint32_t slot, str why) except -1:
    """Fill in an order that lets a MASTER resign. Raises ValueError.

    `why`: the reason of its state from then on, "yielded" or "maintenance".
    """
    if why not in ("yielded", "maintenance"):
        raise ValueError(f'{why}: must be "yielded" or "maintenance"')
    memset(order, 0, sizeof(Order))
    order.kind, order.slot = ORDER_YIELD, slot
    order.reason = <uint8_t><int>_REASONS.index(why)
    return 0
