"""What a timeline comes to: RSS over time, and what each system call, each mapping and each madvise did.

A change of RSS is put down to what its thread did last: to the page fault that it is in, or to the system call. So a
call has what it zapped, and a fault what it brought, which is more than a page where a huge page or the neighbourhood
in a file came with it. Frames are put down to calls in the same way. A frame that is zapped is not always freed within
the call: a page that the kernel still has in its batch for the LRU lists is freed when that is worked off.
"""

from __future__ import annotations

from dontneed.abi import trace_kinds as kinds
from dontneed.observe.trace.cover import NOTHING
from dontneed.observe.trace.layout import Mapped, follow, processes
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from dontneed.observe.trace.layout import Advised
    from dontneed.observe.trace.timeline import Timeline

    Array = NDArray[Any]

_CAUSES = (kinds.CALL, kinds.RETURN, kinds.FAULT, kinds.EXIT, kinds.EXEC)

_NOWHERE = Mapped(0, 0, 0, "", "")


class MappingUse(Record):
    """What happened in one mapping.

    Attributes:
        pid: of which process.
        start, end: addresses, as far as it ever reached.
        name, perms: as in /proc/PID/maps; the permissions that any part of it ever had.
        faults: of them `reads`, `writes` and `fetches` of instructions.
        brought_bytes: of RSS, by these faults.
        zapped_bytes: of RSS, by madvise and munmap.
    """

    pid: int
    start: int
    end: int
    name: str
    perms: str
    faults: int
    reads: int
    writes: int
    fetches: int
    brought_bytes: int
    zapped_bytes: int


class AdviceUse(Record):
    """What one madvise did, and how soon its pages were wanted again.

    Attributes:
        at: seconds from the start of the trace.
        pid, thread: whose call.
        start, end: addresses.
        advice: number of the MADV_*.
        result: 0, or a negative errno; None: it did not return.
        seconds: how long it took.
        zapped_bytes: by how much RSS fell within it.
        freed_frames: within it.
        flushes: of TLBs within it.
        refaults: pages of it that were touched again before anything else became of them.
        refaulted_bytes: what these faults brought.
        first_seconds, median_seconds: from its return to the first of these touches, and to half of them; None: none.
    """

    at: float
    pid: int
    thread: int
    start: int
    end: int
    advice: int
    result: int | None
    seconds: float
    zapped_bytes: int
    freed_frames: int
    flushes: int
    refaults: int
    refaulted_bytes: int
    first_seconds: float | None
    median_seconds: float | None


class CallUse(Record):
    """All calls of one name: how many, how many failed, how long they took, what they did to RSS, frames and TLBs."""

    name: str
    count: int
    failed: int
    seconds: float
    rss_bytes: int
    freed_frames: int
    flushes: int


class Summary(Record):
    """What a timeline comes to.

    Attributes:
        counts: events by kind.
        calls, mappings: the ones with most time, and with most faults, first.
        advices: in their order.
        rss_times, rss: seconds and bytes, at each change; by counter, of all processes together.
        peak_rss_bytes, last_rss_bytes: without swap.
    """

    counts: dict[str, int]
    calls: tuple[CallUse, ...]
    mappings: tuple[MappingUse, ...]
    advices: tuple[AdviceUse, ...]
    rss_times: Array
    rss: dict[str, Array]
    peak_rss_bytes: int
    last_rss_bytes: int


def summarize(timeline: Timeline) -> Summary:
    """Sum up a timeline; a second or less for a million events."""
    import numpy as np

    events = timeline.events
    changes = _rss_changes(timeline)
    causes = _causes(events)
    count = len(events)
    caused = causes >= 0
    rss_by_cause = _summed(causes, caused & (events["kind"] == kinds.RSS), changes * (events["a"] != kinds.SWAP), count)
    orders = np.int64(1) << np.minimum(events["b"], np.uint64(30)).astype(np.int64)
    freed = _summed(causes, caused & (events["kind"] == kinds.FREED), orders, count)
    flushed = caused & (events["kind"] == kinds.TLB_FLUSH) & (events["a"] != kinds.TASK_SWITCH)
    flushes = _summed(causes, flushed, np.ones(count, np.int64), count)
    returns = _returns(events)
    layout = follow(timeline, returns)
    times, rss = _rss_over_time(timeline, changes)
    total = in_rss(rss)
    return Summary(
        counts=_counts(events),
        calls=_call_uses(events, returns, rss_by_cause, freed, flushes),
        mappings=_mapping_uses(events, layout.mappings, layout.fault_mappings, rss_by_cause, layout.zaps),
        advices=tuple(_advice_uses(timeline, layout.advices, layout.fault_advices, (rss_by_cause, freed, flushes))),
        rss_times=times,
        rss=rss,
        peak_rss_bytes=int(np.max(total)),
        last_rss_bytes=int(total[-1]),
    )


def in_rss(rss: dict[str, Array]) -> Array:
    """RSS by counter to RSS."""
    return rss["file"] + rss["anonymous"] + rss["shmem"]


def _counts(events: Array) -> dict[str, int]:
    import numpy as np

    found = np.bincount(events["kind"], minlength=len(kinds.KIND_NAMES)).tolist()
    return {kinds.KIND_NAMES[kind]: found[kind] for kind in kinds.KINDS}


def _summed(causes: Array, chosen: Array, amounts: Array, count: int) -> Array:
    """Amounts of the chosen events, added up by what caused them."""
    import numpy as np

    sums = np.bincount(causes[chosen], weights=amounts[chosen], minlength=count)
    return np.rint(sums).astype(np.int64)


def _causes(events: Array) -> Array:
    """Of each event the row of the fault or the call that its thread is in, or -1."""
    import numpy as np

    order = np.argsort(events["thread"], kind="stable")
    kind, thread = events["kind"][order], events["thread"][order]
    places = np.where(np.isin(kind, _CAUSES), np.arange(len(order)), -1)
    latest = np.maximum.accumulate(places) if len(places) else places
    found = np.where(latest >= 0, latest, 0)
    own = (latest >= 0) & (thread[found] == thread) & np.isin(kind[found], (kinds.CALL, kinds.FAULT))
    causes = np.full(len(order), -1, np.int64)
    causes[order] = np.where(own, order[found], -1) if len(order) else causes
    return causes


def _returns(events: Array) -> Array:
    """Of each call the row where it returns; -1 where it does not, and for all that is no call."""
    import numpy as np

    rows = np.flatnonzero(np.isin(events["kind"], (kinds.CALL, kinds.RETURN)))
    rows = rows[np.argsort(events["thread"][rows], kind="stable")]
    found = np.full(len(events), -1, np.int64)
    if len(rows) > 1:
        first, second = rows[:-1], rows[1:]
        pairs = (
            (events["kind"][first] == kinds.CALL)
            & (events["kind"][second] == kinds.RETURN)
            & (events["thread"][first] == events["thread"][second])
            & (events["a"][first] == events["a"][second])
        )
        found[first[pairs]] = second[pairs]
    return found


def _rss_changes(timeline: Timeline) -> Array:
    """Of each rss event by how many bytes its counter has changed since the one before; 0 for others.

    The first count of an address space is a change from 0; of the one that was there at the start, from what its
    counters were then.
    """
    import numpy as np

    events = timeline.events
    changes = np.zeros(len(events), np.int64)
    rows = np.flatnonzero(events["kind"] == kinds.RSS)
    if not len(rows):
        return changes
    spaces, counters = events["c"][rows], events["a"][rows]
    rows = rows[np.lexsort((rows, counters, spaces))]
    values = events["b"][rows].astype(np.int64)
    new = np.ones(len(rows), bool)
    new[1:] = (events["c"][rows[1:]] != events["c"][rows[:-1]]) | (events["a"][rows[1:]] != events["a"][rows[:-1]])
    before = np.concatenate((values[:1] * 0, values[:-1]))
    before[new] = 0
    first_space = _first_space(timeline)
    for number, name in enumerate(kinds.COUNTERS):
        before[new & (events["c"][rows] == first_space) & (events["a"][rows] == number)] = timeline.rss[name]
    changes[rows] = values - before
    return changes


def _first_space(timeline: Timeline) -> int:
    """The address space of the process at the start; -1 where the trace begins with a program."""
    import numpy as np

    events = timeline.events
    own = np.isin(events["thread"], list(timeline.threads)) & (events["kind"] == kinds.RSS) & (events["d"] == 1)
    rows = np.flatnonzero(own)
    return int(events["c"][rows[0]]) if timeline.maps and len(rows) else -1


def _rss_over_time(timeline: Timeline, changes: Array) -> tuple[Array, dict[str, Array]]:
    """Seconds, and bytes by counter: at the start, at each change, and at the end."""
    import numpy as np

    events = timeline.events
    rows = np.flatnonzero(events["kind"] == kinds.RSS)
    gone = list(_teardowns(timeline))
    times = np.concatenate((events["time"][rows], np.array([time for time, _, _ in gone], np.uint64)))
    counters = np.concatenate((events["a"][rows], np.array([counter for _, counter, _ in gone], np.uint64)))
    amounts = np.concatenate((changes[rows], np.array([-held for _, _, held in gone], np.int64)))
    order = np.argsort(times, kind="stable")
    around = (timeline.started, timeline.ended)
    seconds = (np.concatenate((around[:1], times[order].astype(np.int64), around[1:])) - timeline.started) / 1e9
    rss = {}
    for number, name in enumerate(kinds.COUNTERS):
        own = np.where(counters[order] == number, amounts[order], 0)
        rss[name] = timeline.rss[name] + np.concatenate(([0], np.cumsum(own), [own.sum()])).astype(np.int64)
    return seconds, rss


def _teardowns(timeline: Timeline) -> Iterator[tuple[int, int, int]]:
    """Address spaces that ended with their processes: when, and by counter the bytes that they had until then.

    The kernel tells of a process's exit before it takes its memory apart (since 6.16), and nothing of the latter.
    """
    import numpy as np

    events = timeline.events
    owners = processes(timeline)
    exits = np.flatnonzero(events["kind"] == kinds.EXIT)
    exited = dict(zip(events["thread"][exits].tolist(), events["time"][exits].tolist(), strict=True))
    ends: dict[int, list[int | None]] = {}
    for thread, pid in owners.items():
        ends.setdefault(pid, []).append(exited.get(thread))
    rows = np.flatnonzero(events["kind"] == kinds.RSS)
    own = rows[events["d"][rows] == 1]
    users: dict[int, set[int]] = {}
    for thread, space in np.unique(events[["thread", "c"]][own]).tolist():
        users.setdefault(space, set()).add(owners.get(thread, thread))
    for space, pids in users.items():
        times = [time for pid in pids for time in ends.get(pid, [None])]
        if None in times:
            continue
        of_space = rows[events["c"][rows] == space]
        for counter in range(len(kinds.COUNTERS)):
            counted = of_space[events["a"][of_space] == counter]
            held = int(events["b"][counted[-1]].astype(np.int64)) if len(counted) else 0
            if held:
                yield max(time for time in times if time is not None), counter, held


def _call_uses(events: Array, returns: Array, rss: Array, freed: Array, flushes: Array) -> tuple[CallUse, ...]:
    import numpy as np

    found = []
    calls = events["kind"] == kinds.CALL
    for number in np.unique(events["a"][calls]).tolist():
        rows = np.flatnonzero(calls & (events["a"] == number))
        ended = rows[returns[rows] >= 0]
        results = events["b"][returns[ended]].astype(np.int64)
        name, _ = kinds.ALL_CALLS.get(number, (str(number), 0))
        use = CallUse(
            name=name,
            count=len(rows),
            failed=int(((results < 0) & (results > -4096)).sum()),  # noqa: PLR2004 - MAX_ERRNO
            seconds=float((events["time"][returns[ended]] - events["time"][ended]).sum()) / 1e9,
            rss_bytes=int(rss[rows].sum()),
            freed_frames=int(freed[rows].sum()),
            flushes=int(flushes[rows].sum()),
        )
        found.append(use)
    return tuple(sorted(found, key=lambda use: -use.seconds))


def _mapping_uses(
    events: Array, mappings: list[Mapped], fault_mappings: Array, rss: Array, zaps: list[tuple[int, int]]
) -> tuple[MappingUse, ...]:
    """Faults by mapping; a row without addresses is of those that lie in no mapping that is known."""
    import numpy as np

    faults = np.flatnonzero(events["kind"] == kinds.FAULT)
    nowhere = len(mappings)
    places = np.where(fault_mappings == NOTHING, nowhere, fault_mappings)
    codes = events["c"][faults]
    fetches = (codes & kinds.INSTRUCTION) != 0
    writes = (codes & kinds.WRITE) != 0
    counted = [
        np.bincount(places[chosen], minlength=nowhere + 1).tolist()
        for chosen in (np.ones(len(faults), bool), ~(fetches | writes), writes, fetches)
    ]
    brought = np.bincount(places, weights=np.maximum(rss[faults], 0), minlength=nowhere + 1).tolist()
    zapped = [0] * (nowhere + 1)
    for place, call in zaps:
        zapped[place] += max(-int(rss[call]), 0)
    everywhere = [*mappings, _NOWHERE] if counted[0][nowhere] else mappings
    rows = []
    for nth, mapped in enumerate(everywhere):
        if counted[0][nth] or zapped[nth]:
            faults_of, reads_of, writes_of, fetches_of = (counts[nth] for counts in counted)
            use = MappingUse(
                **mapped.as_dict(),
                faults=faults_of,
                reads=reads_of,
                writes=writes_of,
                fetches=fetches_of,
                brought_bytes=int(brought[nth]),
                zapped_bytes=zapped[nth],
            )
            rows.append(use)
    return tuple(sorted(rows, key=lambda use: (-use.faults, use.start)))


def _advice_uses(
    timeline: Timeline, advices: list[Advised], fault_advices: Array, sums: tuple[Array, Array, Array]
) -> list[AdviceUse]:
    import numpy as np

    events = timeline.events
    rss, freed, flushes = sums
    faults = np.flatnonzero(events["kind"] == kinds.FAULT)
    again = np.flatnonzero(fault_advices != NOTHING)
    again = again[np.argsort(fault_advices[again], kind="stable")]
    cuts = np.searchsorted(fault_advices[again], np.arange(len(advices) + 1))
    found = []
    for nth, advised in enumerate(advices):
        touched = faults[again[cuts[nth] : cuts[nth + 1]]]
        brought = int(np.maximum(rss[touched], 0).sum())
        _, first_of_page = np.unique(events["a"][touched] // timeline.page_bytes, return_index=True)
        call, back = advised.call, advised.back
        began = int(events["time"][call])
        returned = int(events["time"][back]) if back >= 0 else timeline.ended
        soon = np.sort(events["time"][touched[first_of_page]].astype(np.int64) - returned) / 1e9
        use = AdviceUse(
            at=(began - timeline.started) / 1e9,
            pid=advised.pid,
            thread=int(events["thread"][call]),
            start=advised.start,
            end=advised.end,
            advice=advised.advice,
            result=int(events["b"][back].astype(np.int64)) if back >= 0 else None,
            seconds=(returned - began) / 1e9,
            zapped_bytes=max(-int(rss[call]), 0),
            freed_frames=int(freed[call]),
            flushes=int(flushes[call]),
            refaults=len(soon),
            refaulted_bytes=brought,
            first_seconds=float(soon[0]) if len(soon) else None,
            median_seconds=float(np.median(soon)) if len(soon) else None,
        )
        found.append(use)
    return found
