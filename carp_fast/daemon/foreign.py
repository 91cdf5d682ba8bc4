"""Addresses of virtual hosts that another program has added to their interface, in any state.

The engine finds such an address only when it adds its own, as MASTER. A BACKUP whose host already
has the address answers for it alongside the master: this module finds that, too, from what is known
of the interface. Must not change anything, nor know how it is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from carp_fast.daemon.table import Hosts, every_address
from carp_fast.inet import address_text, prefix_text
from carp_fast.net.addresses import kernel_keeps_marks
from carp_fast.net.interfaces import OWN_PROTOCOL, Interface

# For one interface: by slot, {address of the virtual host: the same address as found}. Every slot
# of the interface has an entry.
Found = Mapping[int, dict[str, str]]


class Foreign:
    """Compares interfaces with virtual hosts, and reports what it finds on each interface.

    Our addresses are recognized by our mark; if the kernel keeps none (before Linux 5.18), nothing
    is found here, and only a MASTER notices.
    """

    def __init__(self, hosts: Hosts, report: Callable[[Found], None]) -> None:
        self._hosts = hosts
        self._report = report
        self._marks = kernel_keeps_marks()

    def on_interface(self, interface: Interface) -> None:
        """Compares again after an interface, or the set of its virtual hosts, has changed."""
        number = self._hosts.known(interface.name)
        if number is None or not self._marks:
            return
        there = _foreign_by_address(interface)
        found: dict[int, dict[str, str]] = {}
        for slot in self._hosts.slots[number]:
            found[slot] = {}
            host = self._hosts.hosts[slot]
            # Addresses that scripts add and remove may be there in any state.
            if there and host is not None and host.settings.manage_addresses:
                for address in every_address(host):
                    other = there.get(address.partition("/")[0])
                    if other is not None:
                        found[slot][address] = address if address in other else other[0]
        self._report(found)


def _foreign_by_address(interface: Interface) -> dict[str, list[str]]:
    """Addresses without our mark: by their text without prefix length, with all their prefix
    lengths.
    """
    there: dict[str, list[str]] = {}
    for each in interface.addresses:
        if each.protocol != OWN_PROTOCOL:
            texts = there.setdefault(address_text(each.address), [])
            texts.append(prefix_text(each.address, each.prefixlen))
    return there
