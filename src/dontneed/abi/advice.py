"""What the kernel's headers and sources say of every `MADV_*` and `POSIX_MADV_*`: a table, and nothing that acts.

One truth, three readers: the code asks `Advice.DONTNEED.refusal({"locked"})`, the docs' tables are generated from
here (tools/generate_advice_table.py), and the tests hold every row against an errno matrix measured on Linux 6.18 and
against the running kernel.

The facts speak of Linux 6.18; `history` tells where older kernels differ. Numbers are those of
include/uapi/asm-generic/mman-common.h, which every architecture shares but alpha and, before 6.2, parisc.

How madvise(2) walks (mm/madvise.c, the same in 2.6.32 and 6.18): a wrong advice, an unaligned start or a wrapping
length is EINVAL before any memory is looked at; length 0 is success. Then mappings are taken in ascending order: a hole
is skipped, and turns success into ENOMEM at the end, after all that is mapped was advised; a refusal by one mapping
ends the walk at once, with the earlier mappings already advised. (POPULATE_* end at the first hole instead.)
"""

from __future__ import annotations

from dontneed.errors import UsageError
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import ClassVar

    from typing_extensions import Self

    from dontneed.abi.advice_effects import Effects


class Condition(Record):
    """Something that can be true of a mapping, of the range, of the kernel's build or of the caller.

    Attributes:
        word: what refusals call it.
        meaning: when it holds.
        kernel: the kernel's own name for it.
    """

    word: str
    meaning: str
    kernel: str


CONDITIONS: dict[str, Condition] = {
    condition.word: condition
    for condition in (
        Condition("unmapped", "an address of the range is not mapped; all that is mapped was advised", "no VMA"),
        Condition("sealed", "sealed by mseal(2), anonymous, and not writable now", "VM_SEALED without VM_WRITE"),
        Condition("locked", "locked by mlock(2) or MAP_LOCKED; secret memory always is", "VM_LOCKED"),
        Condition("hugetlb", "made of hugetlb pages (MAP_HUGETLB, hugetlbfs)", "VM_HUGETLB"),
        Condition("hugetlb-unaligned", "hugetlb, and the range starts inside a huge page", "huge_page_mask()"),
        Condition(
            "no-split", "a flag would change for part of a huge page, of the vdso or of vvar", "vm_ops->may_split"
        ),
        Condition("pfnmap", "frames mapped by number: vvar, a perf ring, device memory", "VM_PFNMAP"),
        Condition("io", "registers or a ring that a driver owns: vvar, a perf ring, device memory", "VM_IO"),
        Condition("special", "mapped by the kernel or a driver: vdso, vvar, a perf ring", "VM_SPECIAL, not VM_HUGETLB"),
        Condition("no-file", "no file behind it: private anonymous memory, vdso, vvar", "no vm_file"),
        Condition("file", "a file behind it; shared anonymous memory and /dev/zero have one", "vm_file or VM_SHARED"),
        Condition("backed", "its faults are answered by a file, shared memory or a driver", "not vma_is_anonymous()"),
        Condition(
            "unwritable-file", "the file is mapped private, or by a read-only descriptor", "no VM_SHARED+MAYWRITE"
        ),
        Condition("not-regular", "what is behind it is no regular file: a perf ring", "not S_ISREG"),
        Condition("no-hole", "its file system cannot punch holes", "no f_op->fallocate"),
        Condition("no-read", "not readable", "not VM_READ"),
        Condition("no-write", "not writable", "not VM_WRITE"),
        Condition("secret", "made by memfd_secret(2)", "vma_is_secretmem()"),
        Condition("droppable", "mapped MAP_DROPPABLE (6.11)", "VM_DROPPABLE"),
        Condition("guarded", "a guard installed in the range", "PTE_MARKER_GUARD"),
        Condition("beyond-end", "pages beyond the end of the file, where a touch is SIGBUS", "VM_FAULT_SIGBUS"),
        Condition("small", "no whole aligned huge page (2 MiB) of the mapping", "thp_vma_allowable_order()"),
        Condition("no-huge", "told NOHUGEPAGE, or by prctl(PR_SET_THP_DISABLE)", "VM_NOHUGEPAGE"),
        Condition("empty", "no page present in the huge page", "SCAN_PMD_NULL"),
        Condition("map-count", "a flag would change for part of a mapping, and that is one too many", "max_map_count"),
        Condition("no-swap", "no file behind it, and a kernel built without swap", "no CONFIG_SWAP"),
        Condition("no-ksm", "a kernel built without page merging", "no CONFIG_KSM"),
        Condition("no-thp", "a kernel built without huge pages", "no CONFIG_TRANSPARENT_HUGEPAGE"),
        Condition("no-memory-failure", "a kernel built without handling of failed memory", "no CONFIG_MEMORY_FAILURE"),
        Condition("unprivileged", "the caller lacks CAP_SYS_ADMIN", "capable()"),
    )
}


class Refusal(Record):
    """One way in which the kernel says no.

    Attributes:
        errno: the error's name, as in `errno.EINVAL`.
        condition: a word of `CONDITIONS`.
        known: how we know: `matrix` (decides a cell of the matrix measured on 6.18), `live` (measured on 6.18 by a
            test of its own), `source` (read in mm/ of 6.18, not provoked).
    """

    errno: str
    condition: str
    known: str


class _Member(Record):
    """A named number of a closed family: the class has its members as attributes and knows them all."""

    name: str
    number: int

    @classmethod
    def all(cls) -> tuple[Self, ...]:
        """Every member, by ascending number."""
        return tuple(value for value in vars(cls).values() if isinstance(value, cls))

    @classmethod
    def named(cls, key: str | int) -> Self:
        """The member with this name, in any case and with or without its prefix, or with this number.

        Raises:
            UsageError: no such member; the hint lists them.
        """
        wanted = key.upper().replace("-", "_") if isinstance(key, str) else key
        for member in cls.all():
            if wanted in (member.name, str(member), member.number):
                return member
        msg = f"no {cls.__name__} is called {key!r}"
        raise UsageError(msg, hint=f"one of {', '.join(member.name for member in cls.all())}, or its number")

    def __int__(self) -> int:
        return self.number

    def __index__(self) -> int:
        """Makes a member what ctypes, `mmap.madvise` and libc take as a number."""
        return self.number

    def __hash__(self) -> int:
        """By number alone: members are keys of caches, and a Record would hash its whole row each time."""
        return self.number

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class Advice(_Member):
    """An `MADV_*` value and what is known of it: `Advice.DONTNEED`, `Advice.named("dontneed")`, `Advice.all()`.

    Attributes:
        name: without its prefix.
        number: what madvise(2) takes; `int(advice)` too.
        since: the first kernel that has it.
        summary: what it says to the kernel.
        refusals: in the kernel's order: the first whose condition holds gives the errno.
        remote: process_madvise(2) takes it for another process (with CAP_SYS_NICE); for one's own all, since 6.13.
        destructive: contents of this process can be lost.
        history: where kernels before 6.18 differ.
    """

    since: str
    summary: str
    refusals: tuple[Refusal, ...]
    remote: bool = False
    destructive: bool = False
    history: tuple[str, ...] = ()

    if TYPE_CHECKING:
        NORMAL: ClassVar[Advice]
        RANDOM: ClassVar[Advice]
        SEQUENTIAL: ClassVar[Advice]
        WILLNEED: ClassVar[Advice]
        DONTNEED: ClassVar[Advice]
        FREE: ClassVar[Advice]
        REMOVE: ClassVar[Advice]
        DONTFORK: ClassVar[Advice]
        DOFORK: ClassVar[Advice]
        MERGEABLE: ClassVar[Advice]
        UNMERGEABLE: ClassVar[Advice]
        HUGEPAGE: ClassVar[Advice]
        NOHUGEPAGE: ClassVar[Advice]
        DONTDUMP: ClassVar[Advice]
        DODUMP: ClassVar[Advice]
        WIPEONFORK: ClassVar[Advice]
        KEEPONFORK: ClassVar[Advice]
        COLD: ClassVar[Advice]
        PAGEOUT: ClassVar[Advice]
        POPULATE_READ: ClassVar[Advice]
        POPULATE_WRITE: ClassVar[Advice]
        DONTNEED_LOCKED: ClassVar[Advice]
        COLLAPSE: ClassVar[Advice]
        HWPOISON: ClassVar[Advice]
        SOFT_OFFLINE: ClassVar[Advice]
        GUARD_INSTALL: ClassVar[Advice]
        GUARD_REMOVE: ClassVar[Advice]

    def __str__(self) -> str:
        return f"MADV_{self.name}"

    @property
    def effects(self) -> Effects:
        """What it does to each kind of memory, in words."""
        from dontneed.abi.advice_effects import EFFECTS

        return EFFECTS[self.name]

    def refusal(self, conditions: Collection[str]) -> Refusal | None:
        """Why the kernel would refuse this advice on a mapping for which `conditions` hold; None: it would not.

        Args:
            conditions: words of `CONDITIONS`, all that hold.
        Raises:
            UsageError: a word that is not there; it would pass for a condition that no one minds.
        Kernel:
            mm/madvise.c, 6.18: madvise_vma_behavior() and what it calls.
        """
        for word in conditions:
            if word not in CONDITIONS:
                msg = f"{word!r} is no condition"
                raise UsageError(msg, hint=f"one of {', '.join(CONDITIONS)}")
        return next((refusal for refusal in self.refusals if refusal.condition in conditions), None)


class PosixAdvice(_Member):
    """A `POSIX_MADV_*` value: what posix_madvise(3) of libc makes of it, which is not what the kernel's name promises.

    posix_madvise returns an errno *value* and leaves errno alone. `DONTNEED` does nothing in glibc since 2.6 (2007)
    and in musl: POSIX forbids that an advice changes contents, and Linux's DONTNEED does. glibc before 2.6 discarded.

    Attributes:
        name: without its prefix.
        number: what posix_madvise(3) takes.
        passes: the advice that libc hands to the kernel; None: libc returns 0 without a system call, whatever the
            range (also an unaligned or unmapped one).
    """

    passes: Advice | None

    if TYPE_CHECKING:
        NORMAL: ClassVar[PosixAdvice]
        RANDOM: ClassVar[PosixAdvice]
        SEQUENTIAL: ClassVar[PosixAdvice]
        WILLNEED: ClassVar[PosixAdvice]
        DONTNEED: ClassVar[PosixAdvice]

    def __str__(self) -> str:
        return f"POSIX_MADV_{self.name}"


def _enrol(*members: _Member) -> None:
    """Make each an attribute of its family's class."""
    for member in members:
        setattr(type(member), member.name, member)


def _refused(errno: str, *conditions: str, known: str = "matrix") -> tuple[Refusal, ...]:
    return tuple(Refusal(errno, condition, known) for condition in conditions)


# What rows share. A discard asks for the seal before anything else.
_HOLE = _refused("ENOMEM", "unmapped")
_SEAL = _refused("EPERM", "sealed")
_FLAG = _refused("EINVAL", "no-split", known="live") + _refused("EAGAIN", "map-count", known="live") + _HOLE
_ALIGN = _refused("EINVAL", "hugetlb-unaligned", known="live")
_KSM = _refused("EINVAL", "no-ksm", known="source")
_THP = _refused("EINVAL", "no-thp", known="source")
_POISON = (
    *_refused("EINVAL", "no-memory-failure"),
    *_refused("EPERM", "unprivileged", known="source"),
    *_refused("EFAULT", "unmapped", known="source"),
)
_POPULATE = _refused("EFAULT", "guarded", "beyond-end", known="live") + _HOLE

_SEALS = "6.10 and 6.11 look for seals in the whole range first, and then change nothing"
_SET_TWICE = "early kernels: EINVAL if set already"
_ROUNDED_UP = "until 6.0 the end on hugetlb is rounded up"

_enrol(
    Advice(
        *("NORMAL", 0, "2.4", "no special order of access: take back RANDOM and SEQUENTIAL"),
        refusals=_FLAG,
    ),
    Advice(
        *("RANDOM", 1, "2.4", "touches will come in no order: read nothing ahead"),
        refusals=_FLAG,
        history=("before 6.3 use keeps file pages cached all the same",),
    ),
    Advice(
        *("SEQUENTIAL", 2, "2.4", "touches will come in ascending order: read far ahead, let go soon"),
        refusals=_FLAG,
    ),
    Advice(
        *("WILLNEED", 3, "2.4", "read from the file or from swap now; map nothing"),
        refusals=_refused("EBADF", "no-swap", known="source") + _HOLE,
        remote=True,
        history=("before 3.9 anonymous memory: EBADF", "remote since 5.15"),
    ),
    Advice(
        *("DONTNEED", 4, "2.4", "drop the pages now; the next touch faults afresh"),
        refusals=_SEAL + _ALIGN + _refused("EINVAL", "locked", "pfnmap") + _HOLE,
        destructive=True,
        history=(
            "before 5.18 hugetlb: EINVAL",
            _ROUNDED_UP,
            _SEALS,
            "since 6.14 page tables that the range covers whole are freed too",
        ),
    ),
    Advice(
        *("FREE", 8, "4.5", "the contents may go when memory runs short, unless written again"),
        refusals=_SEAL + _refused("EINVAL", "hugetlb", "locked", "pfnmap", "backed") + _HOLE,
        destructive=True,
        history=("before 4.12 without swap: acts as DONTNEED", _SEALS),
    ),
    Advice(
        *("REMOVE", 9, "2.6.16", "punch a hole in the file behind the mapping, for every process"),
        refusals=_SEAL
        + _refused("EINVAL", "locked", "no-file")
        + _refused("EACCES", "unwritable-file")
        + _refused("ENODEV", "not-regular")
        + _refused("EOPNOTSUPP", "no-hole", known="source")
        + _HOLE,
        destructive=True,
        history=(
            "before 3.5 only tmpfs can, the rest: ENOSYS",
            "before 6.7 a shared mapping not writable now: EACCES",
            _SEALS,
        ),
    ),
    Advice(
        *("DONTFORK", 10, "2.6.16", "leave the mapping out of children forked from now on"),
        refusals=_SEAL + _FLAG,
        history=(_SEALS,),
    ),
    Advice(
        *("DOFORK", 11, "2.6.16", "undo DONTFORK"),
        refusals=_refused("EINVAL", "io") + _FLAG,
    ),
    Advice(
        *("MERGEABLE", 12, "2.6.32", "let KSM find pages with equal contents and keep one frame for all"),
        refusals=_KSM + _FLAG,
    ),
    Advice(
        *("UNMERGEABLE", 13, "2.6.32", "undo MERGEABLE"),
        refusals=_KSM + _FLAG,
    ),
    Advice(
        *("HUGEPAGE", 14, "2.6.38", "back this with huge pages where sysfs says `madvise` or `always`"),
        refusals=_THP + _FLAG,
        history=(_SET_TWICE,),
    ),
    Advice(
        *("NOHUGEPAGE", 15, "2.6.38", "never back this with huge pages"),
        refusals=_THP + _FLAG,
        history=(_SET_TWICE,),
    ),
    Advice(
        *("DONTDUMP", 16, "3.4", "leave the mapping out of core dumps"),
        refusals=_FLAG,
    ),
    Advice(
        *("DODUMP", 17, "3.4", "undo DONTDUMP"),
        refusals=_refused("EINVAL", "special", "droppable") + _FLAG,
    ),
    Advice(
        *("WIPEONFORK", 18, "4.14", "children forked from now on find zeros; this process loses nothing"),
        refusals=_SEAL + _refused("EINVAL", "file") + _FLAG,
        history=(_SEALS,),
    ),
    Advice(
        *("KEEPONFORK", 19, "4.14", "undo WIPEONFORK"),
        refusals=_refused("EINVAL", "droppable") + _FLAG,
    ),
    Advice(
        *("COLD", 20, "5.4", "reclaim these pages first when memory runs short"),
        refusals=_refused("EINVAL", "locked", "pfnmap", "hugetlb") + _HOLE,
        remote=True,
        history=("remote since 5.10",),
    ),
    Advice(
        *("PAGEOUT", 21, "5.4", "reclaim these pages now"),
        refusals=_refused("EINVAL", "locked", "pfnmap", "hugetlb") + _HOLE,
        remote=True,
        history=("remote since 5.10",),
    ),
    Advice(
        *("POPULATE_READ", 22, "5.14", "map every page now, as a read would; a hole ends it"),
        refusals=_refused("EINVAL", "pfnmap", "secret", "no-read") + _POPULATE,
    ),
    Advice(
        *("POPULATE_WRITE", 23, "5.14", "map every page now, as a write would; a hole ends it"),
        refusals=_refused("EINVAL", "pfnmap", "secret", "no-write") + _POPULATE,
    ),
    Advice(
        *("DONTNEED_LOCKED", 24, "5.18", "DONTNEED that takes locked memory too"),
        refusals=_SEAL + _ALIGN + _refused("EINVAL", "pfnmap") + _HOLE,
        destructive=True,
        history=(_ROUNDED_UP, _SEALS),
    ),
    Advice(
        *("COLLAPSE", 25, "6.1", "make huge pages of small ones now; EBUSY, ENOMEM or EAGAIN where that fails"),
        refusals=_THP
        + _refused("EINVAL", "hugetlb", "small")
        + _refused("EINVAL", "special", known="source")
        + _refused("EINVAL", "no-huge", "empty", known="live")
        + _HOLE,
        remote=True,
    ),
    Advice(
        *("HWPOISON", 100, "2.6.32", "treat the frames as failed memory, to test the machine's recovery"),
        refusals=_POISON,
        destructive=True,
    ),
    Advice(
        *("SOFT_OFFLINE", 101, "2.6.33", "move the contents to other frames and never use these again"),
        refusals=_POISON,
    ),
    Advice(
        *("GUARD_INSTALL", 102, "6.13", "drop the pages and make every touch SIGSEGV, without splitting the mapping"),
        refusals=_SEAL + _refused("EINVAL", "locked", "special", "hugetlb") + _HOLE,
        destructive=True,
        history=("before 6.15 only writable anonymous memory",),
    ),
    Advice(
        *("GUARD_REMOVE", 103, "6.13", "take guards away; pages without one are left alone"),
        refusals=_refused("EINVAL", "special", "hugetlb") + _HOLE,
        history=("before 6.15 only anonymous memory",),
    ),
)

_enrol(
    PosixAdvice("NORMAL", 0, Advice.NORMAL),
    PosixAdvice("RANDOM", 1, Advice.RANDOM),
    PosixAdvice("SEQUENTIAL", 2, Advice.SEQUENTIAL),
    PosixAdvice("WILLNEED", 3, Advice.WILLNEED),
    PosixAdvice("DONTNEED", 4, None),
)
