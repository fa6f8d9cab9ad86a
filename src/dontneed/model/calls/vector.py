"""process_madvise(2): one advice for several ranges, of oneself or of another process.

It counts the bytes of the ranges that it got through, and stops at the first that fails: a failure behind a success
is not to be seen, nor is what a range with a hole did before the hole was found.

Kernel:
    mm/madvise.c process_madvise(), vector_madvise(); lib/iov_iter.c __import_iovec(). Since 5.10.
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.abi.errnos import EFAULT, EINVAL, ENOSYS, EPERM
from dontneed.model.calls.advice import madvise
from dontneed.model.space.mm import PAGE_SHIFT, TOP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dontneed.model.space.mm import Mm
    from dontneed.model.versions import Behaviour

MOST_RANGES = 1024
"""UIO_MAXIOV."""
MOST_BYTES = 0x7FFF_F000
"""MAX_RW_COUNT: what goes beyond it is cut off, without a word."""

_TOP_ADDRESS = (TOP - 1) << PAGE_SHIFT
_LONGEST = (1 << 63) - 1


def process_madvise(
    mm: Mm,
    ranges: Sequence[tuple[int, int]],
    number: int,
    *,
    remote: bool = False,
    nice: bool = True,
    flags: int = 0,
) -> int:
    """process_madvise(2).

    Args:
        mm: whose memory.
        ranges: address and length of each, in bytes.
        number: of the advice.
        remote: the caller is another process, one that may read this one's memory.
        nice: the caller has CAP_SYS_NICE.
        flags: none are known.
    Returns:
        Bytes advised, of ranges that were done to their end; or a negative errno.
    """
    behaviour = mm.system.behaviour
    if not behaviour.vector:
        return -ENOSYS
    if flags or len(ranges) > MOST_RANGES or any(length > _LONGEST for _, length in ranges):
        return -EINVAL
    if not _are_user_memory(ranges):
        return -EFAULT
    if behaviour.vector_refuses_unknown and number not in mm.system.advices:
        return -EINVAL
    if not (behaviour.vector_any_of_own and not remote) and number not in _vector_advices(behaviour):
        return -EINVAL
    if not nice and (behaviour.vector_needs_nice if remote else behaviour.vector_needs_nice_for_own):
        return -EPERM
    return _advise_each(mm, _cut(ranges), number)


def _advise_each(mm: Mm, ranges: list[tuple[int, int]], number: int) -> int:
    done = 0
    for index, (address, length) in enumerate(ranges):
        if not length and index:
            continue  # stepped over: only the first range is looked at, whatever its length
        refused = madvise(mm, address, length, number)
        if refused:
            return done if done and mm.system.behaviour.vector_counts_done else -refused
        done += length
    return done


def _cut(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges, as far as their lengths fit into MOST_BYTES; none, if there is nothing to do at all."""
    left = MOST_BYTES
    cut = []
    for address, length in ranges:
        cut.append((address, min(length, left)))
        left -= cut[-1][1]
    return cut if left < MOST_BYTES else []


def _are_user_memory(ranges: Sequence[tuple[int, int]]) -> bool:
    """access_ok(): a single range is cut before this is asked, and several are cut after."""
    most = MOST_BYTES if len(ranges) == 1 else _LONGEST
    return all(address + min(length, most) <= _TOP_ADDRESS for address, length in ranges)


def _vector_advices(behaviour: Behaviour) -> set[int]:
    """What one may advise another process."""
    advices = {int(Advice.COLD), int(Advice.PAGEOUT)}
    if behaviour.vector_willneed:
        advices.add(int(Advice.WILLNEED))
    if behaviour.knows(Advice.COLLAPSE):
        advices.add(int(Advice.COLLAPSE))
    return advices
