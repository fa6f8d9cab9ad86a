"""What each madvise of a replayed process took away, in the model, and which of that was touched again.

A page that a call took away stays in its account until it is touched, or something else becomes of it: it is unmapped,
mapped over, moved, or taken away once more. Stretches of a whole page table are accounted for as one.
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.model.space.entries import ANON, DIRTY, KIND, LEAF_PAGES, MAPPED
from dontneed.model.space.mm import PAGE_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.replayed.events import Call
    from dontneed.model.space.leaf import Run
    from dontneed.model.space.mm import Mm

_LAZY = int(Advice.FREE)
_PAGE_MASK = (1 << PAGE_SHIFT) - 1


class Account:
    """One madvise: what it did.

    Attributes:
        call: the call.
        zapped_pages: that it took out of RSS.
        lazy_pages: that it marked as free to be taken.
        touches: of each of its pages that was touched again: when, in nanoseconds.
        brought_pages: what these touches brought back into RSS.
    """

    __slots__ = ("brought_pages", "call", "lazy_pages", "touches", "zapped_pages")

    def __init__(self, call: Call) -> None:
        self.call = call
        self.zapped_pages = 0
        self.lazy_pages = 0
        self.brought_pages = 0
        self.touches: list[int] = []


class Accounts:
    """All madvise calls of one process.

    Attributes:
        all: in their order.
        pages: page → the account of the call that took it away.
        slots: the same, of whole page tables.
    """

    def __init__(self) -> None:
        self.all: list[Account] = []
        self.pages: dict[int, Account] = {}
        self.slots: dict[int, Account] = {}
        self._read: set[int] = set()

    def before(self, mm: Mm, call: Call) -> list[Run]:
        """What an advice finds in RSS, to be handed to `after`."""
        first, last = pages_of(call.arguments[0], call.arguments[1], mm.top)
        return [run for run in mm.table.runs(first, last) if run[2] & KIND in MAPPED]

    def after(self, mm: Mm, call: Call, present: list[Run], zapped_pages: int) -> None:
        """Account for a call that was made.

        Args:
            mm: whose memory.
            call: the call.
            present: what was in RSS before.
            zapped_pages: by how much RSS has fallen.
        """
        account = Account(call)
        account.zapped_pages = zapped_pages
        self.all.append(account)
        first, last = pages_of(call.arguments[0], call.arguments[1], mm.top)
        if call.arguments[2] == _LAZY:
            account.lazy_pages = _marked(mm.table.runs(first, last))
        if zapped_pages <= 0:
            return
        whole = sum(end - start for start, end, *_ in present) == zapped_pages
        for start, end, _, _ in present:
            if not whole and any(mm.table.get(page)[0] for page in range(start, end)):
                continue  # some mapping refused, or it was brought back at once
            self._await(start, end, account)

    def _await(self, start: int, end: int, account: Account) -> None:
        """A run of pages within one page table was taken away."""
        slot = start // LEAF_PAGES
        if end - start == LEAF_PAGES:
            self.forget(start, end)
            self.slots[slot] = account
        else:
            self._take_apart(slot)
            self.pages.update(dict.fromkeys(range(start, end), account))
            self._read.difference_update(range(start, end))

    def _take_apart(self, slot: int) -> None:
        """Account for each page of a page table for itself."""
        account = self.slots.pop(slot, None)
        if account is not None:
            first = slot * LEAF_PAGES
            self.pages.update(dict.fromkeys(range(first, first + LEAF_PAGES), account))

    def forget(self, first: int, last: int) -> None:
        """Something else becomes of pages `[first, last)`."""
        if self.pages:
            for page in _among(self.pages, first, last):
                del self.pages[page]
                self._read.discard(page)
        if self.slots:
            for slot in _among(self.slots, first // LEAF_PAGES, -(-last // LEAF_PAGES)):
                begin, end = slot * LEAF_PAGES, (slot + 1) * LEAF_PAGES
                account = self.slots.pop(slot)
                kept = (*range(begin, min(first, end)), *range(max(last, begin), end))
                self.pages.update(dict.fromkeys(kept, account))

    def is_awaited(self, page: int) -> bool:
        """Whether a touch of this page is one of a page that was taken away."""
        return page in self.pages or page // LEAF_PAGES in self.slots

    def touched(self, page: int, time: int, brought_pages: int) -> None:
        """A page that is awaited was touched, which brought so many: none, if it was read and has the zero page now.

        Such a page is awaited still, for what its first write brings; but it was touched again already.
        """
        slot = page // LEAF_PAGES
        self._take_apart(slot)
        account = self.pages[page]
        if page not in self._read:
            account.touches.append(time)
        if brought_pages <= 0:
            self._read.add(page)
            return
        account.brought_pages += brought_pages
        if brought_pages >= LEAF_PAGES:
            self.forget(slot * LEAF_PAGES, (slot + 1) * LEAF_PAGES)
        else:
            del self.pages[page]
            self._read.discard(page)


def pages_of(start: int, length: int, top: int) -> tuple[int, int]:
    """The pages that a call acts on, as far as there can be any."""
    first = start >> PAGE_SHIFT
    return min(first, top), min(first + (length + _PAGE_MASK >> PAGE_SHIFT), top)


def _marked(runs: list[Run]) -> int:
    """How many anonymous pages are clean: lazily freed, for whatever was written is dirty."""
    return sum(end - start for start, end, code, _ in runs if code & (KIND | DIRTY) == ANON)


def _among(known: dict[int, Account], first: int, last: int) -> list[int]:
    """Those of a range that are known; the time is that of the fewer."""
    if last - first <= len(known):
        return [each for each in range(first, last) if each in known]
    return [each for each in known if first <= each < last]
