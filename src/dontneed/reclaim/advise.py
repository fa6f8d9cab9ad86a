"""`advise` and `posix_madvise`: the whole family, for buffers and spans of this process, and for spans of another."""

from __future__ import annotations

import os

from dontneed.abi.advice import Advice, PosixAdvice
from dontneed.errors import KernelLacks, ProcessGone, UsageError, WrongType
from dontneed.kernel.exports import exported
from dontneed.kernel.madvise import advise_posix, advise_range, advise_spans
from dontneed.kernel.procfs import checked_pid
from dontneed.spans import Span, Spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def advise(target: Any, advice: Advice, *, pid: int | None = None) -> int:
    """Give the kernel an advice on memory. The Python's other threads run on meanwhile.

    Args:
        target: a buffer (its whole pages), a `Span`, or `Spans` (1,024 a system call where the kernel can).
        advice: an `Advice`; what it does to each kind of memory stands in its row.
        pid: whose memory; None is the calling process. Another process takes spans, an advice whose row says
            `remote`, CAP_SYS_NICE and the right to read the process.
    Returns:
        Bytes advised. Not bytes freed: `discard` proves those.
    Raises:
        WrongType: `target` is neither span nor buffer, `advice` no Advice.
        UsageError: another process's buffer, or an advice that cannot be given there.
        BufferRefused: the buffer is read-only and the advice would destroy its contents, or it is not contiguous.
        AdviceRefused: with the kernel's errno; ENOMEM means that a part is not mapped, and the rest was advised; of
            `Spans` nothing behind the one that was refused.
        NotPermitted, ProcessGone, KernelLacks: EPERM, no such process, before 5.10.
    Kernel:
        madvise(2) since 2.4; process_madvise(2) since 5.10, on oneself with any advice since 6.13.
    """
    _require(advice, Advice)
    if pid is not None and checked_pid(pid) != os.getpid():
        return _advise_other(_as_spans(target), advice, pid)
    if isinstance(target, Span):
        return advise_range(target.start, target.size_bytes, advice)
    if isinstance(target, Spans):
        return advise_spans(target, advice)
    with exported(target, writable=advice.destructive) as (address, length):
        span = Span.inward(address, length)
        return advise_range(span.start, span.size_bytes, advice)


def posix_madvise(target: Any, advice: PosixAdvice) -> None:
    """Give advice through libc's posix_madvise, which never loses data: POSIX_MADV_DONTNEED does nothing at all.

    Args:
        target: a buffer (its whole pages) or a `Span` of the calling process.
        advice: a `PosixAdvice`.
    Raises:
        WrongType: `target` is neither span nor buffer, `advice` no PosixAdvice.
        AdviceRefused: with the errno that libc returned.
    Kernel:
        posix_madvise(3). glibc before 2.6 passed DONTNEED on, and it did destroy data.
    """
    _require(advice, PosixAdvice)
    if isinstance(target, Span):
        advise_posix(target.start, target.size_bytes, advice)
        return
    with exported(target, writable=False) as (address, length):
        span = Span.inward(address, length)
        advise_posix(span.start, span.size_bytes, advice)


def _require(advice: object, family: type) -> None:
    if not isinstance(advice, family):
        name = family.__name__
        msg = f"an advice is one of dontneed.{name} here, not {type(advice).__name__} {advice!r}"
        raise WrongType(msg, hint=f"{name}.DONTNEED, or {name}.named('DONTNEED')")


def _as_spans(target: Any) -> Spans:
    if isinstance(target, Spans):
        return target
    if isinstance(target, Span):
        return Spans([target])
    msg = "another process's memory is named by its addresses"
    raise UsageError(msg, hint="give a Span or Spans; dontneed.look(pid).mappings has the addresses")


def _advise_other(spans: Spans, advice: Advice, pid: int) -> int:
    if not advice.remote:
        allowed = ", ".join(each.name for each in Advice.all() if each.remote)
        msg = f"the kernel gives no MADV_{advice.name} on behalf of another process"
        raise UsageError(msg, hint=f"{allowed} can be given there; the rest must run inside it")
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        msg = f"there is no process {pid}"
        raise ProcessGone(msg) from None
    except OSError as error:
        msg = f"no pidfd for process {pid}: {error.strerror}"
        raise KernelLacks(msg, hint="pidfd_open came with Linux 5.3; a seccomp filter may hide it") from None
    try:
        return advise_spans(spans, advice, pidfd=pidfd)
    finally:
        os.close(pidfd)
