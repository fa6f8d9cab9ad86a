"""The two-letter flags of the VmFlags line of smaps, in words.

Kernel:
    fs/proc/task_mmu.c show_smap_vma_flags(); Documentation/filesystems/proc.rst. The line is there since 3.8.
"""

from __future__ import annotations

VM_FLAG_WORDS: dict[str, str] = {
    "rd": "readable",
    "wr": "writable",
    "ex": "executable",
    "sh": "shared",
    "mr": "may read",
    "mw": "may write",
    "me": "may execute",
    "ms": "may share",
    "gd": "stack that grows down",
    "pf": "maps frames without page structures",
    "dw": "file that may not be written",
    "lo": "locked",
    "io": "device memory",
    "sr": "advised sequential",
    "rr": "advised random",
    "dc": "not copied on fork",
    "de": "does not expand",
    "lf": "locked on fault",
    "ac": "accounted",
    "nr": "swap space not reserved",
    "ht": "hugetlb",
    "sf": "synchronous faults",
    "nl": "non-linear",
    "ar": "architecture-specific",
    "wf": "wiped on fork",
    "dd": "not in core dumps",
    "sd": "soft-dirty",
    "mm": "mixed map",
    "hg": "advised huge pages",
    "nh": "advised no huge pages",
    "mg": "advised mergeable",
    "um": "userfaultfd, missing pages",
    "uw": "userfaultfd, write-protected",
    "ui": "userfaultfd, minor faults",
    "ss": "shadow stack",
    "sl": "sealed",
    "dp": "droppable",
    "gu": "may hold guard pages",
    "bt": "branch-target guarded",
    "mt": "memory tagging",
}
"""Letters to words; letters that are not here are shown as the kernel prints them."""


def flag_words(letters: str) -> tuple[str, ...]:
    """The words of a VmFlags line, in its order."""
    return tuple(VM_FLAG_WORDS.get(flag, flag) for flag in letters.split())
