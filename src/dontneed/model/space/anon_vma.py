"""Giving a mapping that is to hold an anonymous page its anon_vma: what such pages know their mappers by.

Kernel:
    mm/rmap.c __anon_vma_prepare(), mm/vma.c find_mergeable_anon_vma(), anon_vma_compatible()
"""

from __future__ import annotations

from dontneed.model.space.vma import ACCESS, MAYBE_GUARD, new_anon_vma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma


def prepare_anon_vma(mm: Mm, vma: Vma) -> None:
    """Give a mapping that is to hold an anonymous page an anon_vma, a neighbour's if it may be shared."""
    if vma.anon_vma:
        return
    above = mm.vmas.find(vma.last)
    below = mm.vmas.find(vma.first - 1)
    for neighbour, lower, upper in ((above, vma, above), (below, below, vma)):
        if (
            neighbour is not None
            and lower is not None
            and upper is not None
            and neighbour.anon_vma
            and not neighbour.inherited
            and _could_share(lower, upper)
        ):
            vma.anon_vma = neighbour.anon_vma
            return
    vma.anon_vma = new_anon_vma()


def _could_share(lower: Vma, upper: Vma) -> bool:
    """Whether two neighbours are alike but for their protection, and for guards."""
    return (
        lower.file is upper.file
        and not (lower.flags ^ upper.flags) & ~(ACCESS | MAYBE_GUARD)
        and lower.offset + lower.pages == upper.offset
    )
