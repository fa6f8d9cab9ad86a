"""`Holder`: what one process holds; `Holders`: all of them."""

from __future__ import annotations

from dontneed.errors import UsageError
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Holder(Record):
    """What one process holds of the machine's memory, in bytes; None where that is not for us to know.

    Attributes:
        pid, command: who it is.
        rss_bytes: what it maps that is there, without hugetlb pages.
        uss_bytes: of that, what nobody else maps and it maps once: what its end would free.
        pss_bytes: of that, its share: what is mapped n times counts for 1/n.
        swap_bytes: its pages in swap; without swapped shared memory, which belongs to no process.
        hugetlb_bytes: in pages of the hugetlb pool.
        page_table_bytes: that its page tables take.
        method: how that was read: `smaps_rollup`, `pagemap`, `page tables` or `status`.
        same_as: the process whose address space this one lives in (CLONE_VM, or a vfork that has not yet exec'd); its
            amounts are repeated here, and are in the sums once. Known where page tables were read.
    """

    pid: int
    command: str
    rss_bytes: int
    uss_bytes: int | None
    pss_bytes: int | None
    swap_bytes: int
    hugetlb_bytes: int
    page_table_bytes: int
    method: str
    same_as: int | None = None


class HoldersTotal(Record):
    """The sums over all processes, in bytes; each address space once.

    Attributes:
        processes: how many there are.
        unknown: of how many USS and PSS are not known; these are in the other sums.
        rss_bytes: counts a page in each process that maps it.
        uss_bytes: what is mapped once on the whole machine.
        pss_bytes: all that processes map: every page once.
        swap_bytes, hugetlb_bytes, page_table_bytes: as those of `Holder`.
    """

    processes: int
    unknown: int
    rss_bytes: int
    uss_bytes: int
    pss_bytes: int
    swap_bytes: int
    hugetlb_bytes: int
    page_table_bytes: int


class Holders(Record):
    """What `look_all` returns.

    Attributes:
        processes: a `Holder` each, by pid; without kernel threads and without what has ended.
        total: the sums.
        method: how they were read: as those of `Holder`, with a plus between them.
        seconds: how long it took.
        notes: what could not be seen, and why, in sentences.
    """

    processes: tuple[Holder, ...]
    total: HoldersTotal
    method: str
    seconds: float
    notes: tuple[str, ...] = ()

    def largest(self, count: int | None = None, *, by: str = "pss") -> list[Holder]:
        """The processes with most; all if no count is given.

        Args:
            count: how many.
            by: one of `SORT_KEYS`.
        Raises:
            UsageError: it is none of them.
        """
        if by not in SORT_KEYS:
            msg = f"processes are not sorted by {by!r}"
            raise UsageError(msg, hint=f"one of {', '.join(SORT_KEYS)}")
        return sorted(self.processes, key=SORT_KEYS[by])[: len(self.processes) if count is None else count]


SORT_KEYS: dict[str, Callable[[Holder], tuple[int, ...]]] = {
    "pss": lambda holder: _known_first(holder, holder.pss_bytes),
    "uss": lambda holder: _known_first(holder, holder.uss_bytes),
    "rss": lambda holder: (-holder.rss_bytes, holder.pid),
    "swap": lambda holder: (-holder.swap_bytes, -holder.rss_bytes, holder.pid),
    "tables": lambda holder: (-holder.page_table_bytes, holder.pid),
    "pid": lambda holder: (holder.pid,),
}
"""What processes can be ordered by; amounts largest first, and behind them those whose amount is not known, by RSS."""


def _known_first(holder: Holder, amount: int | None) -> tuple[int, ...]:
    return (1, -holder.rss_bytes, holder.pid) if amount is None else (0, -amount, -holder.rss_bytes, holder.pid)


def total_of(processes: tuple[Holder, ...]) -> HoldersTotal:
    """The sums."""
    alone = [holder for holder in processes if holder.same_as is None]
    return HoldersTotal(
        processes=len(processes),
        unknown=sum(holder.pss_bytes is None for holder in processes),
        rss_bytes=sum(holder.rss_bytes for holder in alone),
        uss_bytes=sum(holder.uss_bytes or 0 for holder in alone),
        pss_bytes=sum(holder.pss_bytes or 0 for holder in alone),
        swap_bytes=sum(holder.swap_bytes for holder in alone),
        hugetlb_bytes=sum(holder.hugetlb_bytes for holder in alone),
        page_table_bytes=sum(holder.page_table_bytes for holder in alone),
    )
