"""Every kernel interface that dontneed uses: what for, since when, what opens it, and the trial that finds it.

One row, one interface, in the order of the steps that use them. To use another interface of the kernel, add its trial
to `probes` or `probes_tracing` and its row here; `features()`, `dontneed doctor` and the tests follow.
"""

from __future__ import annotations

from dontneed.kernel import probes, probes_perf, probes_tracing, probes_watching
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dontneed.abi.advice import Advice


class Interface(Record):
    """One kernel interface, and how to try it.

    Attributes:
        name: what other modules ask for.
        step: the step that uses it: look, prove, release, or environment.
        since: the kernel version that brought it.
        used_for: one phrase.
        trial: returns what it saw, or raises what `probes` says.
        capability: what opens it to those whom it is closed to; "" if no capability matters.
        needs: what a new enough kernel may lack still: a build option; "" if nothing.
        instead: what dontneed does without it; "" if nothing.
    """

    name: str
    step: str
    since: str
    used_for: str
    trial: Callable[[], str]
    capability: str = ""
    needs: str = ""
    instead: str = ""


_PAGE_MONITOR = "CONFIG_PROC_PAGE_MONITOR"
_COUNTERS = "counters bound what was freed"
_PAGE_MAP = "pagemap says what is present, swapped, huge and zero"
_ONE_BY_ONE = "ranges are advised one by one"

# A table is read by row; the formatter would give each cell a line.
# fmt: off
_LOOK = (
    Interface("/proc/PID/maps", "look", "2.0", "the mappings of a process",
              probes.try_maps),
    Interface("/proc/PID/smaps", "look", "2.6.14", "per mapping: pss, dirty, lazyfree, locked, flags",
              probes.try_smaps, needs=_PAGE_MONITOR),
    Interface("/proc/PID/smaps_rollup", "look", "4.14", "the pss of a process in one walk",
              probes.try_smaps_rollup, needs=_PAGE_MONITOR, instead="smaps is added up"),
    Interface("/proc/PID/pagemap", "look", "2.6.25", "the state of every page",
              probes.try_pagemap, "CAP_DAC_READ_SEARCH", needs=_PAGE_MONITOR, instead="smaps gives totals per mapping"),
    Interface("PAGEMAP_SCAN", "look", "6.7", "present, swapped, huge and zero pages, fast",
              probes.try_pagemap_scan, "CAP_DAC_READ_SEARCH", needs=_PAGE_MONITOR, instead="smaps is read, slower"),
    Interface("PROCMAP_QUERY", "look", "6.11", "one mapping without reading them all",
              probes.try_procmap_query, instead="maps is read whole"),
    Interface("status RssAnon", "look", "4.5", "rss by kind: anonymous, file, shmem",
              probes.try_rss_by_kind),
    Interface("mincore", "look", "2.4", "which pages of a file are cached",
              probes.try_mincore),
    Interface("cachestat", "look", "6.5", "how much of a file is cached, dirty, evicted",
              probes_tracing.try_cachestat, instead="mincore looks at every page, and cannot see dirty ones"),
    Interface("own processes", "look", "2.0", "look at your other processes",
              probes.try_own_processes, "CAP_SYS_PTRACE"),
    Interface("all processes", "look", "2.0", "look at the processes of other users",
              probes.try_all_processes, "CAP_SYS_PTRACE"),
    Interface("bpf", "look", "5.14", "small programs of our own that read the kernel's memory",
              probes_tracing.try_bpf, "CAP_BPF", needs="CONFIG_BPF_SYSCALL", instead=_PAGE_MAP),
    Interface("BTF", "look", "5.4", "where in its memory the kernel keeps what",
              probes_tracing.try_btf, needs="CONFIG_DEBUG_INFO_BTF", instead=_PAGE_MAP),
    Interface("kernel memory", "look", "5.14", "page tables: every entry, accessed and dirty",
              probes_tracing.try_kernel_memory, "CAP_PERFMON", needs="CONFIG_BPF_EVENTS", instead=_PAGE_MAP),
    Interface("perf_event_open", "look", "2.6.31", "trace: the kernel records what happens to a process",
              probes_perf.try_perf_events, "CAP_PERFMON", needs="CONFIG_PERF_EVENTS"),
    Interface("tracefs", "look", "4.1", "trace: which events there are, and what their records hold",
              probes_perf.try_tracefs, "CAP_SYS_ADMIN", needs="CONFIG_FTRACE"),
    Interface("tracepoints", "look", "5.5", "trace: faults, rss and frames as they come and go",
              probes_perf.try_tracepoints, "CAP_PERFMON", needs="CONFIG_FTRACE_SYSCALLS"),
    Interface("/proc/PID/clear_refs", "look", "2.6.22", "wss --method accessed: forget which pages were used",
              probes_watching.try_clear_refs, "CAP_DAC_OVERRIDE", needs=_PAGE_MONITOR),
    Interface("userfaultfd write watch", "look", "6.7", "wss --method written: which pages are written to",
              probes_watching.try_write_watch, needs="CONFIG_USERFAULTFD"),
    Interface("pidfd_getfd", "look", "5.6", "wss --method written: a descriptor of another process",
              probes_watching.try_pidfd_getfd, "CAP_SYS_PTRACE"),
)
_PROVE = (
    Interface("frame numbers", "prove", "2.6.25", "which frame is behind a page",
              probes.try_frame_numbers, "CAP_SYS_ADMIN", needs=_PAGE_MONITOR, instead=_COUNTERS),
    Interface("/proc/kpageflags", "prove", "2.6.25", "what a frame is used for now",
              probes.try_kpageflags, "CAP_DAC_READ_SEARCH", needs=_PAGE_MONITOR, instead=_COUNTERS),
    Interface("/proc/kpagecount", "prove", "2.6.25", "how many mappings share a frame",
              probes.try_kpagecount, "CAP_DAC_READ_SEARCH", needs=_PAGE_MONITOR, instead=_COUNTERS),
)
_RELEASE = (
    Interface("pidfd_open", "release", "5.3", "name a process without the risk of a reused pid",
              probes.try_pidfd_open, instead=_ONE_BY_ONE),
    Interface("process_madvise(self)", "release", "6.13", "advise 1,024 of your ranges in one call",
              probes.try_own_process_madvise, instead=_ONE_BY_ONE),
    Interface("process_madvise(other)", "release", "5.10", "page out another process's memory",
              probes.try_remote_process_madvise, "CAP_SYS_NICE"),
    Interface("process_vm_readv", "release", "3.2", "plan for another process: read what it holds",
              probes.try_process_memory, "CAP_SYS_PTRACE", needs="CONFIG_CROSS_MEMORY_ATTACH"),
    Interface("ptrace", "release", "3.4", "act inside another process",
              probes.try_ptrace, "CAP_SYS_PTRACE"),
)
_ENVIRONMENT = (
    Interface("transparent huge pages", "environment", "2.6.38", "2 MiB pages: HUGEPAGE and COLLAPSE",
              probes.try_huge_pages, needs="CONFIG_TRANSPARENT_HUGEPAGE"),
    Interface("memory cgroup", "environment", "2.6.25", "what this group of processes is charged",
              probes.try_memory_cgroup, needs="CONFIG_MEMCG, and a cgroup mount"),
    Interface("memory pressure", "environment", "4.20", "how long tasks wait for memory",
              probes.try_pressure, needs="CONFIG_PSI and perhaps psi=1 on its command line"),
)
# fmt: on

_NEVER_TRIED = ("HWPOISON", "SOFT_OFFLINE")
"""They take a frame out of the machine."""


def all_interfaces() -> tuple[Interface, ...]:
    """Every row, in order; an advice is one too, named as in madvise(DONTNEED)."""
    return (*_LOOK, *_PROVE, *_RELEASE, *_advices(), *_ENVIRONMENT)


def interface_named(name: str) -> Interface | None:
    """The row of this name, or None; the advice table is only loaded for an advice."""
    rows = _advices() if name.startswith("madvise(") else (*_LOOK, *_PROVE, *_RELEASE, *_ENVIRONMENT)
    return next((row for row in rows if row.name == name), None)


def _advices() -> tuple[Interface, ...]:
    from dontneed.abi.advice import Advice

    return tuple(_advice_row(advice) for advice in Advice.all() if advice.name not in _NEVER_TRIED)


def _advice_row(advice: Advice) -> Interface:
    from dontneed.abi.advice import CONDITIONS

    refusing = (CONDITIONS[refusal.condition].kernel for refusal in advice.refusals if refusal.errno == "EINVAL")
    options = [words.removeprefix("no ") for words in refusing if words.startswith("no CONFIG_")]
    return Interface(
        name=f"madvise({advice.name})",
        step="release",
        since=advice.since,
        used_for=advice.summary,
        trial=lambda: probes.try_advice(advice),
        needs=" and ".join(options),
    )
