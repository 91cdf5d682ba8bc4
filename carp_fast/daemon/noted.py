"""What the reports of the pump have left to remember, of virtual hosts and interfaces.

Must not know who reports it, nor what is done about it.
"""

from __future__ import annotations

import msgspec

from carp_fast.control.documents import Demotion


class Noted(msgspec.Struct, forbid_unknown_fields=True):
    """It goes on with the successor of a daemon, see upgrade_state; all but `unpromoted` by slot.

    `up_due`: MASTER, but the `up` hook was not submitted: its demotion when it rose;
    `wrong_digest_ns`: when the engine last reported advertisements with a wrong digest;
    `address_problems`: {address: what is wrong with it}; `foreign`: those of them that were found
    on the interface; `left_alone`: (slot, address) that the engine left alone as another program's;
    `unpromoted`: interfaces for which it was logged that promote_secondaries cannot be set.
    """

    up_due: dict[int, Demotion] = {}
    wrong_digest_ns: dict[int, int] = {}
    address_problems: dict[int, dict[str, str]] = {}
    foreign: dict[int, dict[str, str]] = {}
    left_alone: set[tuple[int, str]] = set()
    unpromoted: set[str] = set()

    def forget(self, slot: int) -> None:
        """Forgets the virtual host of a slot that is free now."""
        for by_slot in (self.up_due, self.wrong_digest_ns, self.address_problems, self.foreign):
            by_slot.pop(slot, None)
        self.left_alone = {each for each in self.left_alone if each[0] != slot}
