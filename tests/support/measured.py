"""A scene whose virtual hosts are measured: what Measuring and Overviews need of a daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from carp_fast.config.load import Configuration, Daemon
from carp_fast.daemon.hooks import Hooks
from carp_fast.daemon.measuring import Gathered, Measuring, Reloads
from carp_fast.metrics.measured import Measured
from carp_fast.net.interfaces import Interface
from tests.support.scene import Scene

ETH0 = Interface("eth0", 7, b"\x02\0\0\0\0\x01", True, ())


class Staged:
    """A scene with a Measuring of it. `opened`: the parts of the daemon that are measured."""

    def __init__(
        self, by_group: Mapping[str, int], demoted: list[str], scene: Scene | None = None
    ) -> None:
        self.scene = scene = Scene() if scene is None else scene
        scene.network.now = {"eth0": ETH0}
        self.passes = 0
        scene.hosts.demotion_groups = cast("Any", SimpleNamespace(demoted=lambda: demoted))
        opened = SimpleNamespace(
            hosts=scene.hosts,
            orders=scene.orders,
            pump=scene.orders.pump,
            network=scene.network,
            reports=scene.problems,
            maintenance=SimpleNamespace(state=None, demotion=0),
            demotions=SimpleNamespace(by_group=lambda: by_group),
            tracked=SimpleNamespace(judged=list),
            receive=SimpleNamespace(path="ring"),
            status=scene.status,
        )
        self.opened: Any = cast("Any", opened)
        scene.orders.room_for = self.room_for
        hooks = Hooks(asyncio.get_running_loop())
        configuration = Configuration(Path("/x"), (), Daemon(), [], ())
        self.measuring = Measuring(self.opened, hooks, Reloads(True, 5.0), lambda: configuration)

    async def room_for(self, count: int) -> None:
        self.passes += 1
        await asyncio.sleep(0)

    async def gather(self) -> Gathered:
        return await self.measuring.gather()

    def measured(self, gathered: Gathered, *, problems: bool = True) -> Measured:
        return self.measuring.measured(gathered, problems=problems)
