"""Many virtual hosts on one interface: they become masters, hold elections, and resign."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from carp_fast.lab.lab import Lab
from carp_fast.loadtest.masters import Held, Masters, MastersError
from carp_fast.loadtest.receiver import Receiver

pytestmark = [pytest.mark.root, pytest.mark.alone]

MASTERS, ALL = 300, 600
DURATION_S = 3.0
ADVSKEW = 26  # with advbase 0: an advertisement every 0.1 s, silence after 0.3 s


def test_masters_and_backups(lab_factory: Callable[..., Lab]) -> None:
    lab = lab_factory(segments=1)
    a, b = lab.hosts
    shown: list[Held] = []
    with Receiver("s1", namespace=b.namespace, announcements=True) as receiver:
        receiver.start()
        with a.inside(), Masters("s1", ALL, election=True, advbase=0, advskew=ADVSKEW) as masters:
            held = masters.run(DURATION_S, shown.append, every_s=DURATION_S / 6)
        receiver.drain()
        received = receiver.stop()
    assert (held.master, held.backup, held.init) == (MASTERS, MASTERS, 0)
    # Once at the start, the backups when the masters were demoted, and the masters again; on a
    # busy machine the turn of some comes when it is over.
    assert 2 * MASTERS < held.became_master <= 3.2 * MASTERS
    assert held.advertisements_heard > 0
    assert (held.send_errors, held.socket_dropped) == (0, 0)
    # There is a master of each pair while the others have taken over, too.
    assert min(each.master for each in shown[2:]) >= MASTERS
    # On the wire: everything that was sent, from all sources, resignations included.
    assert received.flows == ALL
    assert received.received == held.advertisements_sent
    assert set(received.verdicts) == {"ok"}
    assert received.gratuitous_arp >= 3 * MASTERS


def test_the_link_goes(lab_factory: Callable[..., Lab]) -> None:
    lab = lab_factory(segments=1)
    going = iter([lambda: lab.set_link("a", 1, up=False)])
    down = pytest.raises(MastersError, match="s1: the link is down")
    with lab["a"].inside(), Masters("s1", 1) as masters, down:
        masters.run(60.0, lambda held: next(going, lambda: None)(), every_s=0.1)
