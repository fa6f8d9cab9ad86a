"""Going first while somebody stands still for us: on a busy machine we would wait for a processor, and so would he.

A thread that holds others runs before all ordinary ones, where that is allowed; each stop is short, and what it does is
bounded. Without the right, pauses on a busy machine are longer, and nothing else changes.

Kernel:
    sched_setscheduler(2), SCHED_RR; CAP_SYS_NICE or RLIMIT_RTPRIO. A control group may have no real time to give.
"""

from __future__ import annotations

import os

from dontneed.records import Record

_LOWEST = 1


class Scheduling(Record):
    """How the calling thread is scheduled: policy and priority, as sched_getscheduler(2) has them."""

    policy: int
    priority: int

    def restore(self) -> None:
        """Be scheduled like this again."""
        os.sched_setscheduler(0, self.policy, os.sched_param(self.priority))


def go_first() -> Scheduling | None:
    """Run before all ordinary threads from now on; what was before, or None if nothing was changed."""
    before = Scheduling(os.sched_getscheduler(0), os.sched_getparam(0).sched_priority)
    if before.policy != os.SCHED_OTHER:  # whoever chose it knew why
        return None
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_LOWEST))
    except OSError:  # EPERM: without the right, or without real time to give, we go when it is our turn
        return None
    return before
