"""`advise_inside`: madvise for many ranges of a stopped process, by one of its own threads.

Where the kernel takes it (6.14), process_madvise(PIDFD_SELF) does 1,024 ranges a call; where not, madvise is injected
for each. The vector of ranges lies below the borrowed thread's stack: nothing is mapped, and nothing is left if we die.

The pages there, with the thread's way home in them, are never advised by that thread itself: they would be gone when it
needs them. Another thread does those, if there is one that can.

If the helper is killed while the call is under way, the call goes on, and whoever stood still for it does not: what one
of them writes to these pages then may go with them. So where others stand still, a call takes little, and no time.
"""

from __future__ import annotations

import errno

from dontneed.abi.syscalls import PIDFD_SELF, PROCESS_MADVISE
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.abi.x86_64 import RED_ZONE_BYTES
from dontneed.kernel.madvise import BYTES_A_CALL, RANGES_A_CALL, refusal
from dontneed.kernel.process_memory import write_memory
from dontneed.remote import lender
from dontneed.remote.passage import Passage
from dontneed.remote.syscall import borrowed
from dontneed.spans import Span, Spans
from dontneed.units import MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.abi.advice import Advice
    from dontneed.kernel.pagemap import Words
    from dontneed.remote.stop import Stop

_IOVEC_BYTES = 16
_BYTES_BESIDE_OTHERS = 8 * MIB
"""The kernel takes back so much in some tenths of a millisecond, at 20 GiB a second."""
_NOT_BY_VECTOR = (errno.ENOSYS, errno.EBADF, errno.EINVAL, errno.EPERM)
"""No such call; no PIDFD_SELF (before 6.14); an advice that it does not take (before 6.13)."""


def advise_inside(stop: Stop, spans: Spans, advice: Advice) -> int:
    """Give `advice` for `spans` of the stopped process, from inside.

    Args:
        stop: holds the process, or one thread of it.
        spans: in bytes.
        advice: what to say of them.
    Returns:
        Bytes advised. Fewer than asked for if a part is what a borrowed thread's own stack needs.
    Raises:
        AdviceRefused: `advised` says how many bytes were advised before it.
        TargetRefused: no thread can lend itself, or system calls are filtered. Nothing was changed.
        ProcessGone: the process was killed.
    Kernel:
        process_madvise(2), PIDFD_SELF since 6.14, any advice on oneself since 6.13; madvise(2).
    """
    if not len(spans):
        return 0
    passage = borrowed(stop)
    own = Spans([_ground_of(passage)])
    advised = _advise(stop, passage, spans - own, advice)
    left = spans & own
    if len(left):
        other = _another_lender(stop, passage.thread)
        if other is not None:
            passage = Passage(stop, other)
            advised += _advise(stop, passage, left - Spans([_ground_of(passage)]), advice)
    return advised


def _ground_of(passage: Passage) -> Span:
    """The pages of a borrowed thread's way home; the scratch space below it is free again after each call."""
    return Span.outward(passage.path.start, passage.path.end + RED_ZONE_BYTES - passage.path.start)


def _another_lender(stop: Stop, thread: int) -> int | None:
    if stop.passage is not None and stop.passage.runs_function:
        return None  # it holds what it was borrowed for, until it is finished
    for other, registers in stop.registers.items():
        if other != thread and not lender.why_not(stop, other, registers, runs_function=False):
            return other
    return None


def _advise(stop: Stop, passage: Passage, spans: Spans, advice: Advice) -> int:
    """Advise what does not touch the passage's own ground."""
    at_once = BYTES_A_CALL if len(stop.registers) == 1 else _BYTES_BESIDE_OTHERS
    vector = spans.split(at_once)
    vector[:, 1] -= vector[:, 0]
    most = min(RANGES_A_CALL, (passage.path.start - passage.lowest_free) // _IOVEC_BYTES)
    first = advised = 0
    while first < len(vector):
        batch = vector[first : first + most]
        batch = batch[: max(1, int(batch[:, 1].cumsum().searchsorted(at_once, side="right")))]
        done = _advise_batch(stop, passage, batch, advice)
        if done <= 0:
            if -done in _NOT_BY_VECTOR:
                return advised + _advise_one_by_one(passage, vector[first:], advice, advised)
            base, length = batch[0].tolist()
            raise refusal(-done or errno.EINVAL, advice, base, length, advised=advised)
        advised += done
        first += int(batch[:, 1].cumsum().searchsorted(done, side="right"))
    return advised


def _advise_batch(stop: Stop, passage: Passage, batch: Words, advice: Advice) -> int:
    """One call for a batch of (base, length); bytes advised, or a negative errno."""
    if len(batch) == 1:
        base, length = batch[0].tolist()
        return passage.system_call(NR.MADVISE, base, length, int(advice)) or length
    data = batch.tobytes()
    scratch = (passage.path.start - len(data)) & -_IOVEC_BYTES
    if not passage.verdicts.allows(PROCESS_MADVISE, PIDFD_SELF, scratch, len(batch), int(advice), 0):
        return -errno.ENOSYS  # a seccomp filter is in the way, which knows the older call
    write_memory(stop.pid, scratch, data)
    return passage.system_call(PROCESS_MADVISE, PIDFD_SELF, scratch, len(batch), int(advice), 0)


def _advise_one_by_one(passage: Passage, vector: Words, advice: Advice, before: int) -> int:
    advised = 0
    for base, length in vector.tolist():
        if number := -passage.system_call(NR.MADVISE, base, length, int(advice)):
            raise refusal(number, advice, base, length, advised=before + advised)
        advised += length
    return advised
