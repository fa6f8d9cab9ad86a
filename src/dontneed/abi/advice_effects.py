"""What every `MADV_*` does to each kind of memory, in words: the prose half of `Advice`, read when it is asked for.

Kernel:
    mm/madvise.c and what it calls, read in 6.18; what concerns RSS, swap and contents was also seen on a running
    6.18. What older kernels do otherwise is in `Advice.history`.
"""

from __future__ import annotations

from dontneed.records import Record


class Effects(Record):
    """What an advice does to each kind of memory; the empty text: the kernel refuses, and `Advice.refusals` say why.

    Shared memory is a memfd, tmpfs, or MAP_SHARED anonymous memory (`mmap.mmap(-1, n)` is that); locked is private
    anonymous memory after mlock(2).
    """

    private_anonymous: str
    private_file: str
    shared_file: str
    shared_memory: str
    hugetlb: str
    locked: str


MEMORY_KINDS: dict[str, tuple[str, ...]] = {
    "private_anonymous": ("no-file",),
    "private_file": ("file", "backed", "unwritable-file"),
    "shared_file": ("file", "backed"),
    "shared_memory": ("file", "backed"),
    "hugetlb": ("hugetlb", "file", "backed"),
    "locked": ("locked", "no-file"),
}
"""The fields of `Effects`, each with the words of `dontneed.abi.advice.CONDITIONS` that hold for such a mapping."""


def _on_all(text: str, **others: str) -> Effects:
    """One text for every kind of memory but `others`."""
    return Effects(**{**dict.fromkeys(MEMORY_KINDS, text), **others})


_AS_ANONYMOUS = "as private anonymous"
_IGNORED = "ignored, and reported as success"

EFFECTS: dict[str, Effects] = {
    "NORMAL": _on_all("read-ahead and page age as usual"),
    "RANDOM": _on_all(
        "the flag alone",
        private_file="a fault reads one page; cached pages around it are still mapped; use does not keep it cached",
        shared_file="as private file",
    ),
    "SEQUENTIAL": _on_all(
        "the flag alone",
        private_file="a fault reads far ahead; use does not keep it cached",
        shared_file="as private file",
    ),
    "WILLNEED": Effects(
        private_anonymous="swapped pages are read into the swap cache; VmSwap falls only at the touch",
        private_file="the file's pages are read into the page cache",
        shared_file="the file's pages are read into the page cache",
        shared_memory="swapped pages are read into the swap cache",
        hugetlb="nothing to read",
        locked="nothing to read: locked pages are not in swap",
    ),
    "DONTNEED": Effects(
        private_anonymous="frames and swap slots are freed; the next read is zeros",
        private_file="private changes are freed and lost, the rest unmapped; the next read is the file",
        shared_file="unmapped here only; changes stay in the page cache and reach the file; nothing is lost or freed",
        shared_memory="unmapped here only; contents and frames stay (REMOVE frees them)",
        hugetlb="whole huge pages go back to the pool (shared: unmapped only); the end is rounded down to one",
        locked="",
    ),
    "FREE": _on_all(
        "",
        private_anonymous="marked lazy: RSS stays; a write keeps the page, a read gives old contents or zeros; "
        "swap slots go now",
    ),
    "REMOVE": Effects(
        private_anonymous="",
        private_file="",
        shared_file="the file's pages and blocks are freed, in the file and in every process; reads are zeros",
        shared_memory="frames and swap slots are freed, in every process; reads are zeros",
        hugetlb="shared: whole huge pages go back to the pool, parts are zeroed; private: EACCES",
        locked="",
    ),
    "DONTFORK": _on_all("absent in the child: a touch there is SIGSEGV"),
    "DOFORK": _on_all("children have it"),
    "MERGEABLE": Effects(
        private_anonymous="equal pages may share a frame, copied again at a write",
        private_file="pages with private changes may be merged",
        shared_file=_IGNORED,
        shared_memory=_IGNORED,
        hugetlb=_IGNORED,
        locked=_AS_ANONYMOUS,
    ),
    "UNMERGEABLE": Effects(
        private_anonymous="merged pages get frames of their own again",
        private_file=_AS_ANONYMOUS,
        shared_file=_IGNORED,
        shared_memory=_IGNORED,
        hugetlb=_IGNORED,
        locked=_AS_ANONYMOUS,
    ),
    "HUGEPAGE": Effects(
        private_anonymous="a write to an empty 2 MiB maps one huge page; khugepaged may collapse what is there",
        private_file="huge where the file system can",
        shared_file="huge where the file system can",
        shared_memory="huge where shmem_enabled is `advise`",
        hugetlb="the flag alone",
        locked=_AS_ANONYMOUS,
    ),
    "NOHUGEPAGE": _on_all(
        "no new huge page; those that exist stay, but for ones cut by the range", hugetlb="the flag alone"
    ),
    "DONTDUMP": _on_all("not in core dumps, whatever coredump_filter says"),
    "DODUMP": _on_all("in core dumps as coredump_filter says"),
    "WIPEONFORK": _on_all(
        "", private_anonymous="zeros in the child, and in the child's children", locked=_AS_ANONYMOUS
    ),
    "KEEPONFORK": _on_all("children find the contents"),
    "COLD": _on_all(
        "made old and inactive; RSS stays; pages that other processes map are skipped in silence",
        hugetlb="",
        locked="",
    ),
    "PAGEOUT": Effects(
        private_anonymous="written to swap and freed; without swap nothing happens, but lazy pages (FREE) go",
        private_file="clean file pages leave the cache, if the caller owns or may write the file; changes are swapped",
        shared_file="unmapped; clean pages leave the cache now, dirty ones once written; needs the same rights",
        shared_memory="to swap; without swap only unmapped",
        hugetlb="",
        locked="",
    ),
    "POPULATE_READ": Effects(
        private_anonymous="the zero page: no frames, no RSS",
        private_file="the file's cached pages, read if need be",
        shared_file="the file's cached pages, read if need be",
        shared_memory="frames are allocated",
        hugetlb="huge pages are taken from the pool",
        locked="what is not present yet",
    ),
    "POPULATE_WRITE": Effects(
        private_anonymous="frames are allocated",
        private_file="every page gets its private copy",
        shared_file="pages become writable and dirty; file systems allocate their blocks",
        shared_memory="frames are allocated",
        hugetlb="huge pages are taken from the pool",
        locked="what is not present yet",
    ),
    "DONTNEED_LOCKED": _on_all(
        "as DONTNEED",
        locked="frames are freed; the mapping stays locked, and a touch brings back one page, locked",
    ),
    "COLLAPSE": Effects(
        private_anonymous="each 2 MiB with a page present becomes one huge page",
        private_file="huge where the kernel and the file system can",
        shared_file="huge where the kernel and the file system can",
        shared_memory="each 2 MiB becomes one huge page of the file",
        hugetlb="",
        locked=_AS_ANONYMOUS,
    ),
    "HWPOISON": _on_all("the frame is lost for good, and what it held: a touch is SIGBUS"),
    "SOFT_OFFLINE": _on_all("contents move, the old frame is lost for good"),
    "GUARD_INSTALL": Effects(
        private_anonymous="frames and swap slots are freed; page tables hold a marker",
        private_file="private changes are freed and lost, the rest unmapped",
        shared_file="unmapped here only; nothing is lost",
        shared_memory="unmapped here only; contents and frames stay",
        hugetlb="",
        locked="",
    ),
    "GUARD_REMOVE": _on_all("a touch faults afresh", hugetlb=""),
}
"""By the name of the advice."""
