"""dontneed: which page frames a Linux process holds, and how to give back those it does not need, with proof.

    look       who holds which frames             `look(pid)`, `look_all()`, `measure()`
    plan       which pages can go, and why        `plan(pid)`
    release    give those pages back              `release(pid)`, `discard(buffer)`, `advise(target, Advice.X)`
    prove      which frames really came back      the `Receipt`, the `ReleaseReceipt`
    features   what this kernel and user allow    `features()`

Every name is imported when it is first used, so that `import dontneed` costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.abi.advice import Advice as Advice
    from dontneed.abi.advice import PosixAdvice as PosixAdvice
    from dontneed.errors import AdviceRefused as AdviceRefused
    from dontneed.errors import BufferRefused as BufferRefused
    from dontneed.errors import DontneedError as DontneedError
    from dontneed.errors import KernelLacks as KernelLacks
    from dontneed.errors import NoAddressSpace as NoAddressSpace
    from dontneed.errors import NotPermitted as NotPermitted
    from dontneed.errors import ProcessGone as ProcessGone
    from dontneed.errors import TargetRefused as TargetRefused
    from dontneed.errors import UsageError as UsageError
    from dontneed.errors import WrongType as WrongType
    from dontneed.kernel.features import Feature as Feature
    from dontneed.kernel.features import features as features
    from dontneed.kernel.status import Counters as Counters
    from dontneed.lab.replay import replay as replay
    from dontneed.observe.address_space import AddressSpace as AddressSpace
    from dontneed.observe.address_space import look as look
    from dontneed.observe.cache.cached_file import CachedFile as CachedFile
    from dontneed.observe.cache.cached_file import CacheTotal as CacheTotal
    from dontneed.observe.cache.page_cache import PageCache as PageCache
    from dontneed.observe.cache.page_cache import cache as cache
    from dontneed.observe.cache.page_cache import evict as evict
    from dontneed.observe.difference import Difference as Difference
    from dontneed.observe.holders.holder import Holder as Holder
    from dontneed.observe.holders.holder import Holders as Holders
    from dontneed.observe.holders.look_all import look_all as look_all
    from dontneed.observe.mapping import Mapping as Mapping
    from dontneed.observe.measurement import Measurement as Measurement
    from dontneed.observe.measurement import measure as measure
    from dontneed.observe.pages import PageMap as PageMap
    from dontneed.observe.tables.page_tables import Walk as Walk
    from dontneed.observe.tables.page_tables import walk as walk
    from dontneed.observe.trace.timeline import Timeline as Timeline
    from dontneed.observe.trace.timeline import trace as trace
    from dontneed.observe.trace.timeline import trace_command as trace_command
    from dontneed.observe.working_set import MappingUse as MappingUse
    from dontneed.observe.working_set import WorkingSet as WorkingSet
    from dontneed.reasons.survey import Survey as Survey
    from dontneed.reclaim.advise import advise as advise
    from dontneed.reclaim.advise import posix_madvise as posix_madvise
    from dontneed.reclaim.discard import discard as discard
    from dontneed.reclaim.plan import Plan as Plan
    from dontneed.reclaim.plan import plan as plan
    from dontneed.reclaim.receipt import ReasonReceipt as ReasonReceipt
    from dontneed.reclaim.receipt import Receipt as Receipt
    from dontneed.reclaim.receipt import ReleaseReceipt as ReleaseReceipt
    from dontneed.reclaim.release import release as release
    from dontneed.remote.working_set import working_set as working_set
    from dontneed.report.replay import Replay as Replay
    from dontneed.spans import Span as Span
    from dontneed.spans import Spans as Spans

__version__ = "0.1.0"

_HOMES = {
    "Advice": "abi.advice",
    "PosixAdvice": "abi.advice",
    "AdviceRefused": "errors",
    "BufferRefused": "errors",
    "DontneedError": "errors",
    "KernelLacks": "errors",
    "NoAddressSpace": "errors",
    "NotPermitted": "errors",
    "ProcessGone": "errors",
    "TargetRefused": "errors",
    "UsageError": "errors",
    "WrongType": "errors",
    "Feature": "kernel.features",
    "features": "kernel.features",
    "Counters": "kernel.status",
    "replay": "lab.replay",
    "AddressSpace": "observe.address_space",
    "look": "observe.address_space",
    "CachedFile": "observe.cache.cached_file",
    "CacheTotal": "observe.cache.cached_file",
    "Difference": "observe.difference",
    "Holder": "observe.holders.holder",
    "Holders": "observe.holders.holder",
    "look_all": "observe.holders.look_all",
    "Mapping": "observe.mapping",
    "Measurement": "observe.measurement",
    "measure": "observe.measurement",
    "PageCache": "observe.cache.page_cache",
    "cache": "observe.cache.page_cache",
    "evict": "observe.cache.page_cache",
    "PageMap": "observe.pages",
    "Timeline": "observe.trace.timeline",
    "trace": "observe.trace.timeline",
    "trace_command": "observe.trace.timeline",
    "MappingUse": "observe.working_set",
    "WorkingSet": "observe.working_set",
    "Walk": "observe.tables.page_tables",
    "walk": "observe.tables.page_tables",
    "advise": "reclaim.advise",
    "posix_madvise": "reclaim.advise",
    "discard": "reclaim.discard",
    "Plan": "reclaim.plan",
    "plan": "reclaim.plan",
    "ReasonReceipt": "reclaim.receipt",
    "Receipt": "reclaim.receipt",
    "ReleaseReceipt": "reclaim.receipt",
    "release": "reclaim.release",
    "Replay": "report.replay",
    "Survey": "reasons.survey",
    "working_set": "remote.working_set",
    "Span": "spans",
    "Spans": "spans",
}
"""Public name to the module that it lives in."""

__all__ = sorted(_HOMES)  # noqa: PLE0605 - one list, `_HOMES`, says it


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    if name not in _HOMES:
        msg = f"module 'dontneed' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    value = getattr(import_module(f"dontneed.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
