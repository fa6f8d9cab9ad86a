"""Bringing a page back from swap: when it is touched, when it is asked for, and what a write makes of one that is back.

A page comes back through the swap cache: its frame and its slot are both held, so that the other entries of the slot
find the frame, and so that going out again costs no writing. A write is what parts them: a frame that has no other
mapper and whose slot no other entry names is the writer's, and its slot free; otherwise the writer gets a copy. From a
device as fast as memory (zram), the only entry of a slot takes the page without the cache. Pages around the touched one
are not read ahead (vm.page-cluster=0).

Kernel:
    mm/memory.c do_swap_page(), should_try_to_free_swap(), wp_can_reuse_anon_folio(); mm/swapfile.c folio_free_swap().
    2.6.32: reuse_swap_page(), try_to_free_swap(). Past the cache since 4.15, SWP_SYNCHRONOUS_IO. Measured on 6.18.
"""

from __future__ import annotations

from dontneed.model.space.entries import ANON, DIRTY, SWAP, WRITE, YOUNG
from dontneed.model.space.vma import LOCKED
from dontneed.model.space.vma import WRITE as VM_WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.system import System

_READ = ANON | YOUNG
_WRITTEN = ANON | YOUNG | WRITE | DIRTY


def swap_in(mm: Mm, vma: Vma, first: int, last: int, slot: int, *, write: bool) -> int:
    """Touch pages whose entries name the slots from `slot` on; 0, for it always succeeds."""
    pages = last - first
    swap = mm.system.swap
    if mm.system.behaviour.swap_in_past_cache and swap.are_plain(slot, pages):
        mm.major_faults += pages
        frame = _read_past_cache(mm.system, slot, pages)
        mm.table.put(first, last, _WRITTEN if write else _code_for_reading(mm, vma, exclusive=True), frame)
    else:
        for page in range(first, last):
            _swap_in_page(mm, vma, page, slot + page - first, write=write)
    mm.resident[SWAP] -= pages
    mm.resident[ANON] += pages
    return 0


def cache_slot(system: System, slot: int) -> int:
    """Read a slot into the swap cache, if it is not there; its frame."""
    frame = system.swap.cache.get(slot)
    if frame is None:
        frame = _read(system, slot, 1)
        system.frames.leave_unmapped(frame)
        system.swap.add_to_cache(slot, frame)
    return frame


def take_slot(system: System, slot: int) -> int:
    """Bring back the page of a file in memory, whose slot nothing else names: its frame; the slot is free."""
    frame = system.swap.cache.get(slot)
    if frame is None:
        return _read_past_cache(system, slot, 1)
    system.swap.drop_from_cache(frame)
    system.swap.release(slot, 1)
    system.frames.claim(frame)
    return frame


def free_swap(system: System, frame: int) -> bool:
    """Part a frame from the slot that it has in the swap cache, unless entries name that; whether it has none now."""
    slot = system.swap.slot_of(frame)
    if slot is None:
        return True
    if system.swap.entries(slot):
        return False
    system.swap.drop_from_cache(frame)
    system.frames.dirty.add(frame)  # what it holds is nowhere else now
    return True


def claim_for_writing(system: System, frame: int) -> bool:
    """Make an anonymous frame its mapper's alone if nothing else needs it: no other mapper, no other entry."""
    if system.frames.map_count(frame) > 1 or not free_swap(system, frame):
        return False
    system.frames.claim(frame)
    return True


def _swap_in_page(mm: Mm, vma: Vma, page: int, slot: int, *, write: bool) -> None:
    """Touch one page whose slot is cached, or shared, or on a kernel that reads into the cache always."""
    system = mm.system
    swap, frames, behaviour = system.swap, system.frames, system.behaviour
    if slot in swap.cache:
        mm.minor_faults += 1
    else:
        mm.major_faults += 1
        if behaviour.swap_in_past_cache and swap.entries(slot) == 1:
            frame = _read_past_cache(system, slot, 1)
            mm.table.put(page, page + 1, _WRITTEN if write else _code_for_reading(mm, vma, exclusive=True), frame)
            return
    exclusive = behaviour.exclusive_frames and swap.is_exclusive(slot)
    frame = cache_slot(system, slot)
    swap.release(slot, 1)
    alone = not frames.map_count(frame)
    if vma.flags & LOCKED or (write and alone):
        exclusive |= free_swap(system, frame) and alone
    if write and not exclusive:
        mm.table.put(page, page + 1, _WRITTEN, _copy(system, frame))
        return
    frames.share(frame, 1)
    if exclusive:
        frames.claim(frame)
    mm.table.put(page, page + 1, _WRITTEN if write else _code_for_reading(mm, vma, exclusive=exclusive), frame)


def _code_for_reading(mm: Mm, vma: Vma, *, exclusive: bool) -> int:
    """The entry of a page that a read brought in: writable at once if it is known to be ours alone."""
    may_write = exclusive and mm.system.behaviour.exclusive_frames and vma.flags & VM_WRITE
    return _READ | WRITE if may_write else _READ


def _copy(system: System, source: int) -> int:
    frame = system.frames.allocate(1)
    system.frames.copy(source, frame, 1)
    return frame


def _read(system: System, slot: int, count: int) -> int:
    """Fresh frames with the contents of slots."""
    frame = system.frames.allocate(count)
    for offset in range(count):
        if byte := system.swap.load(slot + offset):
            system.frames.store(frame + offset, 1, byte)
    return frame


def _read_past_cache(system: System, slot: int, count: int) -> int:
    """Fresh frames with the contents of slots that are named once and free then."""
    frame = _read(system, slot, count)
    system.swap.release(slot, count)
    return frame
