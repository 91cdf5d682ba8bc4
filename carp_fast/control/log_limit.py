"""A limit on log lines that a user can cause.

Must not know what a line says.
"""

from __future__ import annotations

PERIOD_S = 60.0
USERS_REMEMBERED_MAX = 1_024  # further ones share a period


class _Period:
    """The lines of one user since `began_at`, and how many were left out."""

    def __init__(self, began_at: float) -> None:
        self.began_at = began_at
        self.logged = 0
        self.left_out = 0


class LogLimit:
    """At most `lines` log lines of each user in PERIOD_S; the others are counted.

    Times are seconds of a monotonic clock.
    """

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._periods: dict[int | None, _Period] = {}

    def admit(self, uid: int, now_s: float) -> str | None:
        """None if a line of this user is left out; otherwise what follows it: "", or how many were
        left out since its last one.
        """
        period = self._period(uid, now_s)
        if now_s - period.began_at >= PERIOD_S:
            period.began_at, period.logged = now_s, 0
        if period.logged >= self._lines:
            period.left_out += 1
            return None
        period.logged += 1
        left_out, period.left_out = period.left_out, 0
        return f" ({left_out:,} more such lines were left out before)" if left_out else ""

    def _period(self, uid: int, now_s: float) -> _Period:
        if uid not in self._periods and len(self._periods) >= USERS_REMEMBERED_MAX:
            self._periods = {
                each: period
                for each, period in self._periods.items()
                if now_s - period.began_at < PERIOD_S
            }
            if len(self._periods) >= USERS_REMEMBERED_MAX:
                return self._periods.setdefault(None, _Period(now_s))
        return self._periods.setdefault(uid, _Period(now_s))
