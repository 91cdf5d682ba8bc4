"""The phases of an upgrade on the side of the successor.

It prepares, and reports that it is ready; assumes the state that it gets, and reports that; begins
only once it has the commit. Whatever fails before ends this process, which has changed nothing.
Must not know how any step is carried out: that is the business of an `Heir`.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from typing import Self

from carp_fast import __version__
from carp_fast.closing import Closing
from carp_fast.daemon import upgrade_messages as messages
from carp_fast.daemon.process import StartError
from carp_fast.daemon.upgrade_messages import (
    FROM_OLD,
    HEAD,
    HOSTS,
    PROTOCOL,
    STATE_BYTES_MAX,
    Assumed,
    Commit,
    Prepare,
    Ready,
    Transfer,
    UpgradeError,
)
from carp_fast.errors import CarpFastError
from carp_fast.privileged.start import AS_USER_VARIABLE, CHANNEL_VARIABLE
from carp_fast.programs.channel import Channel, ChannelError, close_all
from carp_fast.programs.memory import Sealed

logger = logging.getLogger(__name__)


class Heir(ABC):
    """The interface: what a successor does in each phase."""

    @abstractmethod
    async def assume(self, state: Mapping[str, int]) -> None:
        """Assumes the state; takes the descriptors, by what each is. Raises UpgradeError."""


class Succession(Closing):
    """The channel to the daemon that this process succeeds.

    `uid`: of that daemon when it made the channel. `as_user`: that daemon is not root, and had the
    helper start this process, which is root at first: nothing that the daemon sends may be read
    before this process is not root either. Everything raises StartError, with the reason that the
    other daemon was told, if it could be.
    """

    def __init__(self, channel: Channel, *, as_user: bool = False) -> None:
        self.as_user = as_user
        self.uid = channel.peer_uid
        self._channel = channel
        self.version = ""  # of the other daemon
        self.pid = 0

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] | None = None) -> Self | None:
        """The channel that this process was started with; None if it succeeds none.

        Takes the variables out of the environment. Raises StartError.
        """
        variables = os.environ if environment is None else environment
        as_user = variables.pop(AS_USER_VARIABLE, None) is not None
        text = variables.pop(CHANNEL_VARIABLE, None)
        if text is None:
            return None
        if not text.isdecimal():
            raise StartError(f"{CHANNEL_VARIABLE} = {text!r}: not the number of a descriptor")
        try:
            return cls(Channel.from_descriptor(int(text), FROM_OLD), as_user=as_user)
        except ChannelError as error:
            raise StartError(f"{CHANNEL_VARIABLE}: {error}") from error

    def close(self) -> None:
        """Closes the channel: if that is before the commit, the other daemon goes on."""
        self._channel.close()

    def running(self) -> Sealed:
        """What runs, in sealed memory, which the caller closes."""
        try:
            received = self._channel.receive_now(Prepare, within_s=messages.PREPARE_S)
        except ChannelError as error:
            raise self.failed(error) from error
        prepare: Prepare = received.message
        self.version, self.pid = prepare.version, prepare.pid
        try:
            if prepare.protocol != PROTOCOL:
                which = f"carp-fast {prepare.version}, protocol {prepare.protocol}"
                raise UpgradeError(
                    f"carp-fast {__version__} cannot succeed {which}; it knows protocol {PROTOCOL};"
                    " restart the daemon instead"
                )
            memory = os.dup(received.descriptors[0])
        except (UpgradeError, OSError) as error:
            raise self.failed(error) from error
        finally:
            close_all(received.descriptors)
        try:
            return Sealed(memory, STATE_BYTES_MAX)
        except CarpFastError as error:
            raise self.failed(error) from error

    async def succeed(self, heir: Heir) -> None:
        """Reports that it is ready, and returns with the commit: from then on it is the daemon."""
        channel = self._channel
        try:
            await channel.send(Ready(__version__), within_s=messages.TRANSFER_S)
            logger.debug("successor: ready")
            received = await channel.receive(Transfer, within_s=messages.WAITING_S)
            logger.debug("successor: has the state")
            await heir.assume(_by_name(received.message, received.descriptors))
            logger.debug("successor: has assumed it")
            await channel.send(Assumed(), within_s=messages.TRANSFER_S)
            await channel.receive(Commit, within_s=messages.COMMIT_S)
        except ChannelError as error:
            raise StartError(f"the daemon that was to be succeeded goes on: {error}") from error
        except Exception as error:
            raise self.failed(error) from error
        logger.debug("successor: committed")

    def failed(self, error: Exception) -> StartError:
        """Tells the other daemon why this process ends; returns what to raise."""
        lines = list(getattr(error, "faults", ())) or str(error).splitlines() or [repr(error)]
        if not isinstance(error, CarpFastError | OSError):
            logger.error("the upgrade failed", exc_info=error)
            lines = [f"{type(error).__name__}: {error} (see the log of the successor)"]
        try:
            failed = messages.failed([str(line) for line in lines])
            self._channel.send_now(failed, within_s=messages.TRANSFER_S)
        except ChannelError:
            pass  # it has ended, or does not wait any more
        return error if isinstance(error, StartError) else StartError("\n".join(map(str, lines)))


def _by_name(transfer: Transfer, descriptors: tuple[int, ...]) -> dict[str, int]:
    """The descriptors by what each is. Raises UpgradeError."""
    state = dict(zip(transfer.names, descriptors, strict=True))
    known = {HEAD, HOSTS, messages.CONTROL, messages.LOCKS, messages.PID_FILE}
    unknown, missing = state.keys() - known, {HEAD, HOSTS} - state.keys()
    if unknown or missing or len(state) != len(descriptors):
        close_all(descriptors)
        what = f"unknown: {', '.join(sorted(unknown))}" if unknown else "incomplete"
        raise UpgradeError(f"the state that was passed on is {what}")
    return state
