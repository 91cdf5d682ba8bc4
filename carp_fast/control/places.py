"""The places of control clients: how many each user may have, and what is kept for root.

Must not know sockets, requests or answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from carp_fast.control.access import ROOT, user_text
from carp_fast.control.log_limit import LogLimit
from carp_fast.control.protocol import TOO_MANY_CLIENTS, USER_LIMIT, ControlError

logger = logging.getLogger(__name__)

CLIENTS_MAX = 64  # so that a runaway script cannot take every file descriptor
CLIENTS_OF_USERS_MAX = 48  # ... of them of users other than root, so that root always has the rest
CLIENTS_OF_A_USER_MAX = 16  # ... of them of one user other than root


class Places:
    """Decides whether there is a place for a client; `clock`: a monotonic one, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._logged_of_user = LogLimit(1)
        self._logged_full = LogLimit(1)

    def check(self, uid: int, taken: Collection[int]) -> None:
        """Raises ControlError where there is no place for a client of this user; logs it at most
        once a minute for each user. `taken`: the users of those that have a place.
        """
        try:
            self._check(uid, taken)
        except ControlError as refusal:
            of_user = refusal.code == USER_LIMIT
            limit = self._logged_of_user if of_user else self._logged_full
            more = limit.admit(uid if of_user else ROOT, self._clock())
            if more is not None:
                logger.warning("control socket: %s%s", refusal, more)
            raise

    def _check(self, uid: int, taken: Collection[int]) -> None:
        if uid != ROOT:
            own = sum(each == uid for each in taken)
            if own >= CLIENTS_OF_A_USER_MAX:
                limit = f"limit {CLIENTS_OF_A_USER_MAX}, CLIENTS_OF_A_USER_MAX"
                text = f"too many control clients of {user_text(uid)} ({limit})"
                raise ControlError(text, code=USER_LIMIT)
            if sum(each != ROOT for each in taken) >= CLIENTS_OF_USERS_MAX:
                limit = f"limit {CLIENTS_OF_USERS_MAX}, CLIENTS_OF_USERS_MAX"
                text = f"too many control clients of users other than root ({limit})"
                raise ControlError(text, code=TOO_MANY_CLIENTS)
        if len(taken) >= CLIENTS_MAX:
            raise ControlError(
                f"too many control clients (limit {CLIENTS_MAX})", code=TOO_MANY_CLIENTS
            )
