"""A release of our own process: by itself as far as the native part goes, and by a helper process for the rest.

What it does by itself takes no right, and no tracer: neither Yama nor a seccomp filter nor a missing CAP_SYS_PTRACE is
in its way. It comes first, and the helper, which has to look at the process from outside, sees what is left.

| reason | by itself |
|---|---|
| free-pools, malloc-free | where the native part is (`dontneed doctor` says) |
| dead-stack | in a process of one thread: its own stack |
| the others | never: they look for, and prove, what other threads may be writing |
"""

from __future__ import annotations

from importlib import import_module

from dontneed.errors import DontneedError
from dontneed.kernel.native import is_native
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_counters
from dontneed.reclaim.carry_out import carry_out
from dontneed.reclaim.receipt import ReasonReceipt, ReleaseReceipt
from dontneed.reclaim.verdict import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from dontneed.reclaim.order import Order

_NATIVE = {"free-pools": "own_pools", "malloc-free": "own_malloc"}
_OF_ONE_THREAD = {"dead-stack": "own_stack"}
_WEAKER = ("frames", "counters", "none")


def carry_out_ourselves(order: Order, by_helper: Callable[[Order], ReleaseReceipt]) -> ReleaseReceipt:
    """Carry out an order on our own process.

    Args:
        order: what to do.
        by_helper: has a helper process carry out the reasons that we cannot.
    Raises:
        As `carry_out`; and as `by_helper`, if we did nothing.
    """
    own = _own_reasons()
    here = tuple(name for name in order.reasons if name in own)
    there = tuple(name for name in order.reasons if name not in own)
    if not here:
        return by_helper(order)
    if not there:
        return carry_out(order, lambda: False, named=own.__getitem__)
    rest: list[ReleaseReceipt | DontneedError] = []

    def do_rest(_watch_seconds: float) -> None:
        """Have the rest released, and watched: what we released ourselves is watched for as long."""
        try:
            rest.append(by_helper(order.replace(reasons=there)))
        except DontneedError as refusal:  # what we did is done, and told all the same
            rest.append(refusal)

    receipt = carry_out(order.replace(reasons=here), lambda: False, named=own.__getitem__, wait=do_rest)
    if not rest:
        do_rest(0.0)
    return _joined(receipt, rest[0], there)


def native_reason(name: str) -> ModuleType | None:
    """What has survey() and release() of a reason by the native part; None where it has nothing to do with it."""
    if name not in _NATIVE or not is_native():
        return None
    return import_module(f"dontneed.reasons.{_NATIVE[name]}")


def _own_reasons() -> dict[str, ModuleType]:
    """The reasons that we can carry out ourselves now."""
    with ProcessDirectory() as process:
        threads = read_counters(process).threads
    modules = {**(_NATIVE if is_native() else {}), **(_OF_ONE_THREAD if threads == 1 else {})}
    return {name: import_module(f"dontneed.reasons.{module}") for name, module in modules.items()}


def _joined(ours: ReleaseReceipt, rest: ReleaseReceipt | DontneedError, names: tuple[str, ...]) -> ReleaseReceipt:
    """One receipt of both parts."""
    if isinstance(rest, DontneedError):
        failed = tuple(_failed(name, rest) for name in names)
        return ours.replace(reasons=ours.reasons + failed)
    return ours.replace(
        after=rest.after,
        reasons=ours.reasons + rest.reasons,
        evidence=max(ours.evidence, rest.evidence, key=_WEAKER.index),
        cost_seconds=ours.cost_seconds + rest.cost_seconds,
        notes=tuple(dict.fromkeys(ours.notes + rest.notes)),
    )


def _failed(name: str, refusal: DontneedError) -> ReasonReceipt:
    return ReasonReceipt(
        **Outcome().as_dict(),
        reason=name,
        asked=0,
        advised=0,
        pause_seconds=0.0,
        stops=0,
        cost_seconds=0.0,
        failed=refusal.in_words,
        exit_code=refusal.exit_code,
    )
