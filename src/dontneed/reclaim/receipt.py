"""`Receipt`: what was asked, what was advised, what came of it, and how we know."""

from __future__ import annotations

from dontneed.records import Record
from dontneed.units import format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.status import Counters


class Receipt(Record):
    """What became of memory that was given up. All amounts are bytes.

    Attributes:
        asked: wanted by the caller: the length of the buffer.
        advised: accepted by the kernel: the whole pages inside it.
        freed: frames that came back, to be used by anyone. Proven frame by frame where `evidence` is `frames`; with
            `counters`, no more than this.
        deferred: frames that left the process and are still held: inside a huge page that was released in part, in a
            queue of the kernel, pinned for a device.
        shared: frames that another process, or another mapping, still maps: free for no one.
        lazy: frames marked MADV_FREE: still in RSS, taken when the kernel needs them.
        cached: frames that left RSS and stay in the page cache.
        refaulted: pages that were present again when the watch ended: touched again, or taken back by khugepaged.
        pause_seconds: time in the system calls that released.
        cost_seconds: all time, with the survey and the evidence.
        evidence: `frames`: every frame was looked up after it had gone (root); `counters`: bounded by the process's own
            counters and page map; `none`: nobody looked, and the amounts are 0.
        before, after: the process's counters.
        notes: what the owner should know, in sentences.
    """

    asked: int
    advised: int
    freed: int
    deferred: int
    shared: int
    lazy: int
    cached: int
    refaulted: int
    pause_seconds: float
    cost_seconds: float
    evidence: str
    before: Counters
    after: Counters
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One sentence: what came of it, by which evidence; what is 0 is left out."""
        if self.evidence == "none":
            return f"{format_bytes(self.advised)} advised; nobody looked what became of it"
        words = ("freed", "deferred", "shared", "lazy", "cached", "refaulted")
        amounts = [f"{format_bytes(getattr(self, word))} {word}" for word in words if getattr(self, word)]
        came = ", ".join(amounts) or "nothing freed"
        return f"{format_bytes(self.advised)} advised: {came} (evidence: {self.evidence})"


class ReasonReceipt(Record):
    """What one reason gave back. All amounts are bytes, and their words are those of `Receipt`.

    Attributes:
        reason: its name.
        asked: what its survey found.
        pause_seconds: the longest time at a stretch for which a thread stood still, or the GIL was held.
        stops: how often.
        cost_seconds: all time, with the survey and the evidence.
        notes: what was left alone and why, in sentences.
        refused: why it was not begun: known before anything was done; nothing if it was.
        failed: what went wrong, and left the process as it was; nothing if all went well.
        exit_code: of that failure, as the command gives it; 0 without.
    """

    reason: str
    asked: int
    advised: int
    freed: int
    deferred: int
    shared: int
    lazy: int
    cached: int
    refaulted: int
    pause_seconds: float
    stops: int
    cost_seconds: float
    notes: tuple[str, ...] = ()
    refused: str = ""
    failed: str = ""
    exit_code: int = 0


class ReleaseReceipt(Record):
    """What a process gave back, reason by reason.

    Attributes:
        pid, command: whose.
        before, after: its counters.
        reasons: in the order in which they were carried out.
        evidence: as `Receipt`.
        cost_seconds: from the first survey to the last verdict, without the watch.
        not_begun: reasons whose turn did not come: after a surprise, or since the release was cancelled.
        notes: of the whole, in sentences.
    """

    pid: int
    command: str
    before: Counters
    after: Counters
    reasons: tuple[ReasonReceipt, ...]
    evidence: str
    cost_seconds: float
    not_begun: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def freed(self) -> int:
        """Frames that came back, by all reasons."""
        return sum(each.freed for each in self.reasons)

    @property
    def pause_seconds(self) -> float:
        """The longest time at a stretch for which any thread stood still."""
        return max((each.pause_seconds for each in self.reasons), default=0.0)

    @property
    def exit_code(self) -> int:
        """0, or that of the first reason that failed; 1 too if every reason was refused."""
        failed = next((each.exit_code for each in self.reasons if each.exit_code), 0)
        return failed or int(bool(self.reasons) and all(each.refused for each in self.reasons))

    def __str__(self) -> str:
        """One sentence: what came back, and how that is known."""
        fell = f"RSS {format_bytes(self.before.rss_bytes)} → {format_bytes(self.after.rss_bytes)}"
        return f"{format_bytes(self.freed)} freed, {fell} (evidence: {self.evidence})"
