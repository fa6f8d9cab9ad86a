"""The way of a discard through the kernel, step by step: which functions, which entries they meet, what that leads to.

Recorded while the model works, from what it finds, so that the explanation cannot say anything but what was done. The
names are those of the modelled version; 2.6.32's and 6.18's were read, those in between are the nearer of the two.

Kernel:
    2.6.32: mm/madvise.c, mm/mmap.c, mm/memory.c. 6.18: mm/madvise.c, mm/vma.c, mm/memory.c.
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.model.space import entries
from dontneed.model.space import vma as vm
from dontneed.model.space.mm import PAGE_SHIFT
from dontneed.model.views.descent import Descent, Stage
from dontneed.model.views.gather import Gather, counted
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.versions import Behaviour

_KIB, _MIB = 1 << 10, 1 << 20


class Chain(Record):
    """The functions from a system call to unmap_page_range(), outermost first.

    Attributes:
        once: called once.
        each: called for each mapping.
    """

    once: tuple[str, ...]
    each: tuple[str, ...]


_OLD_ZAP = ("zap_page_range", "unmap_vmas")
_NEW_ZAP = ("zap_page_range_single", "unmap_single_vma")
_NEW_MADVISE = ("do_madvise", "madvise_walk_vmas")

_DISCARD = {
    False: Chain(("sys_madvise",), ("madvise_vma", "madvise_dontneed", *_OLD_ZAP)),
    True: Chain(
        _NEW_MADVISE,
        (
            "madvise_vma_behavior",
            "madvise_dontneed_free",
            "madvise_dontneed_single_vma",
            "zap_page_range_single_batched",
            "unmap_single_vma",
        ),
    ),
}
_REMOVE = {
    False: Chain(
        ("sys_madvise",), ("madvise_vma", "madvise_remove", "vmtruncate_range", "unmap_mapping_range", *_OLD_ZAP)
    ),
    True: Chain(
        _NEW_MADVISE, ("madvise_vma_behavior", "madvise_remove", "vfs_fallocate", "unmap_mapping_range", *_NEW_ZAP)
    ),
}
_INSTALL_GUARDS = {
    False: _DISCARD[False],  # which knows no guards
    True: Chain(_NEW_MADVISE, ("madvise_vma_behavior", "madvise_guard_install", *_NEW_ZAP)),
}
_MUNMAP = {
    False: Chain(("sys_munmap", "do_munmap", "unmap_region", "unmap_vmas"), ()),
    True: Chain(
        (
            "__vm_munmap",
            "do_vmi_munmap",
            "do_vmi_align_munmap",
            "vms_complete_munmap_vmas",
            "vms_clear_ptes",
            "unmap_vmas",
        ),
        ("unmap_single_vma",),
    ),
}
_DISCARDS = (int(Advice.DONTNEED), int(Advice.DONTNEED_LOCKED))
_OF_ADVICE = {int(Advice.REMOVE): _REMOVE, int(Advice.GUARD_INSTALL): _INSTALL_GUARDS}


class Path:
    """Records the way of what system calls zap.

    What they zap is told, and a discard that zaps nothing is; other calls that meet no entry are not.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._told: list[Stage] = []
        self._call: _Call | None = None

    def taken(self) -> tuple[Stage, ...]:
        """What was recorded since this was last asked."""
        self._end_call()
        stages = tuple(self._told)
        self._told.clear()
        return stages

    def advising(self, address: int, length_bytes: int, advice: int) -> None:
        """madvise() begins."""
        self._end_call()
        names = {int(each): str(each) for each in Advice.all()}
        chain = _OF_ADVICE.get(advice, _DISCARD)[self._behaviour.zaps_single_mappings]
        arguments = f"{address:#x}, {_size(length_bytes)}, {names.get(advice, advice)}"
        one_gather = self._behaviour.gathers_whole_calls
        self._call = _Call(chain, arguments, always_told=advice in _DISCARDS, one_gather=one_gather)

    def unmapping(self, first: int, last: int) -> None:
        """munmap() of pages `[first, last)` begins, by itself or within another call."""
        self._end_call()
        chain = _MUNMAP[self._behaviour.zaps_single_mappings]
        arguments = f"{first << PAGE_SHIFT:#x}, {_size(last - first << PAGE_SHIFT)}"
        self._call = _Call(chain, arguments, always_told=False, one_gather=True)

    def unmapped(self, tables_freed: int) -> None:
        """munmap() has freed page tables, of all levels."""
        if self._call is not None and tables_freed:
            self._call.tables_freed.append(f"{counted(tables_freed, 'page table')} freed (free_pgtables)")

    def exiting(self) -> None:
        """A process ends, which is not told."""
        self._end_call()

    def zapping(self, mm: Mm, vma: Vma, first: int, last: int, keep: frozenset[int]) -> None:
        """Pages `[first, last)` of `vma` are about to be zapped; entries of the kinds `keep` stay."""
        call = self._call
        if call is None:
            return
        call.counters = _counters(mm)
        depth = len(call.chain.once)
        if not call.stages:
            head = Stage(0, call.chain.once[0], call.arguments)
            call.stages += [head, *(Stage(level, call.chain.once[level], "") for level in range(1, depth))]
        for function in call.chain.each:
            call.stages.append(Stage(depth, function, self._duty(function, mm, vma, first, last)))
            depth += 1
        descent = Descent(mm, vma, first, last, keep)
        call.stages += descent.stages(depth)
        call.meets_entries |= not descent.finds_nothing
        call.gather = call.gather or Gather(self._behaviour)
        descent.gather(call.gather)

    def zapped(self, mm: Mm, tables_freed: int) -> None:
        """The zap is done."""
        call = self._call
        if call is None:
            return
        for name, after in _counters(mm).items():
            call.moved[name] = call.moved.get(name, 0) + after - call.counters[name]
        if tables_freed:
            call.tables_freed.append(f"{counted(tables_freed, 'page table')} freed (try_to_free_pte)")
        if not call.one_gather:
            call.finish_gather()

    def _end_call(self) -> None:
        """The call in hand is over: what it comes to, if it is told."""
        call, self._call = self._call, None
        if call is None or not (call.meets_entries or call.always_told):
            return
        if not call.stages:
            self._told.append(Stage(0, call.chain.once[0], call.arguments, (), "nothing is zapped"))
            return
        call.finish_gather()
        self._told += [*call.stages, *(Stage(1, "", what) for what in call.results())]

    def _duty(self, function: str, mm: Mm, vma: Vma, first: int, last: int) -> str:
        """What one of the functions does on this occasion, where its name does not say it all."""
        match function:
            case "madvise_vma" | "madvise_vma_behavior":
                return f"{first << PAGE_SHIFT:#x}-{last << PAGE_SHIFT:#x}, {_part(vma, last - first)}"
            case "madvise_dontneed":
                return f"{self._refused(vma)} would be EINVAL: none is set"
            case "madvise_dontneed_free":
                return f"{self._refused(vma)} would be EINVAL: none is set; no userfaultfd is to be told"
            case "zap_page_range":
                return f"lru_add_drain(); tlb_gather_mmu(); hiwater_rss is {mm.peak_pages} pages now"
            case "zap_page_range_single" | "zap_page_range_single_batched":
                return f"hiwater_rss is {mm.peak_pages} pages now"
            case "unmap_vmas" if self._behaviour.zap_work_pages:
                return f"with a break after the work of {self._behaviour.zap_work_pages} pages (zap_work)"
            case _:
                return ""

    def _refused(self, vma: Vma) -> str:
        """The flags of mappings that are not discarded: of DONTNEED_LOCKED, which alone gets here with it, not that."""
        flags = [
            *(() if vma.flags & vm.LOCKED else ("VM_LOCKED",)),
            *(() if self._behaviour.hugetlb_dontneed else ("VM_HUGETLB",)),
            "VM_PFNMAP",
        ]
        return " or ".join(flags)


class _Call:
    """A system call while its way is recorded.

    Attributes:
        chain, arguments: what it is called with, and what it calls.
        always_told: whether it is told though it meets no entry.
        one_gather: whether one mmu_gather serves all of its mappings.
        stages: the way so far.
        meets_entries: whether there was any.
        gather: the one in use.
        counters: as the zap in hand found them.
        moved: by how much all zaps moved them.
        tables_freed: how many page tables went, and by what.
    """

    def __init__(self, chain: Chain, arguments: str, *, always_told: bool, one_gather: bool) -> None:
        self.chain = chain
        self.arguments = arguments
        self.always_told = always_told
        self.one_gather = one_gather
        self.stages: list[Stage] = []
        self.meets_entries = False
        self.gather: Gather | None = None
        self.counters: dict[str, int] = {}
        self.moved: dict[str, int] = {}
        self.tables_freed: list[str] = []

    def finish_gather(self) -> None:
        """Tell of the flushes."""
        if self.gather is not None:
            self.stages += [Stage(1, "", flush) for flush in self.gather.finish()]
            self.gather = None

    def results(self) -> list[str]:
        """What the call comes to."""
        moved = ", ".join(f"{name} {pages:+d}" for name, pages in self.moved.items() if pages)
        return [*self.tables_freed, f"counters, in pages: {moved or 'none moves'}"]


def _counters(mm: Mm) -> dict[str, int]:
    resident = mm.resident
    return {
        "anon": resident[entries.ANON],
        "file": resident[entries.FILE],
        "shmem": resident[entries.SHMEM],
        "swap": resident[entries.SWAP],
        "hugetlb": mm.hugetlb_pages,
        "frames in use": mm.system.frames.in_use,
        "swap slots in use": mm.system.swap.used,
    }


def _part(vma: Vma, pages: int) -> str:
    if pages == vma.pages:
        return f"all {counted(pages, 'page')} of the mapping"
    return f"{pages} of its {counted(vma.pages, 'page')}"


def _size(length_bytes: int) -> str:
    """A length as one would write it."""
    for unit, name in ((_MIB, "MiB"), (_KIB, "KiB")):
        if length_bytes and not length_bytes % unit:
            return f"{length_bytes // unit} {name}"
    return f"{length_bytes} bytes"
