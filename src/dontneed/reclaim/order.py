"""`Order`: what is to be carried out on a process, and handed to a helper."""

from __future__ import annotations

from dontneed.errors import ProcessGone
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from dontneed.kernel.status import Identity
    from dontneed.reasons.survey import Limits


class Order(Record):
    """What is to be done.

    Attributes:
        pid, started: the process; a pid that was given anew is refused.
        reasons: names, in their order.
        hints: what their surveys found out that makes the next ones fast, by reason.
        limits: what to keep to.
        watch_seconds: how long to wait before counting what was touched again.
        evidence: as `Witness`.
    """

    pid: int
    started: int
    reasons: tuple[str, ...]
    hints: Mapping[str, Mapping[str, int]]
    limits: Limits
    watch_seconds: float
    evidence: str

    def require_same(self, identity: Identity) -> None:
        """Raise if the pid belongs to another process by now.

        Raises:
            ProcessGone.
        """
        if identity.started != self.started:
            msg = f"process {self.pid} has ended since it was planned for, and another one has its number"
            raise ProcessGone(msg, hint="plan again")
