"""The bench on the live machine: what its words write into the transcript, and the Python that does the same."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from contextlib import suppress

import pytest

from dontneed.abi.advice import Advice, PosixAdvice
from dontneed.errors import ProcessGone
from dontneed.kernel.environment import read_huge_pages
from dontneed.lab.bench import Bench
from dontneed.lab.catalogue import run_experiment
from dontneed.lab.experiment import Experiment
from dontneed.lab.live import LiveMachine
from dontneed.lab.machine import HUGETLB, PRIVATE_FILE, SHARED_ANONYMOUS, SHARED_FILE, Faults
from dontneed.lab.spelling import program
from dontneed.report.transcript import format_run, run_document
from dontneed.units import PAGE_BYTES

PAGES = 16

needs_huge_pages = pytest.mark.skipif(read_huge_pages() in (None, "never"), reason="huge pages are switched off here")


def _run(perform):
    """What a run of these steps leaves, on the live machine."""
    run = run_experiment(Experiment("test", "What does the bench write?", perform))
    assert run.skipped is None
    return run


def _code(run):
    return [line for step in run.steps for line in step.code.splitlines()]


def _printed(run, tmp_path):
    """What the program of a run prints; it must end well."""
    path = tmp_path / "program.py"
    path.write_text("\n".join(program(run)))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


# Each word: its spelling in C, and in Python that runs


def _map_all_kinds(bench):
    file = bench.create_file("f", PAGES, "f")
    memory = bench.create_file("g", PAGES, "g", in_memory=True)
    bench.read(bench.map("p", PAGES, kind=PRIVATE_FILE, file=file))
    bench.write(bench.map("q", PAGES, kind=SHARED_FILE, file=memory), "Z")
    bench.read(bench.map("r", PAGES, kind=SHARED_ANONYMOUS))
    bench.map("s", PAGES, protection="r")
    assert bench.file_bytes(memory) == (ord("Z"),)
    assert bench.cached_pages(file) == PAGES
    bench.look("All kinds")


def test_files_and_kinds_of_memory_are_spelled(tmp_path):
    """As mmap(2) takes them."""
    run = _run(_map_all_kinds)
    assert _code(run) == [
        'f = fileno(tmpfile()); for (i = 0; i < 64 KiB; i++) write(f, "f", 1); fsync(f);',
        'g = memfd_create("g", 0); for (i = 0; i < 64 KiB; i++) write(g, "g", 1); fsync(g);',
        "p = mmap(NULL, 64 KiB, PROT_READ|PROT_WRITE, MAP_PRIVATE, f, 0);",
        "for (i = 0; i < 64 KiB; i++) seen[p[i]] = 1;",
        "q = mmap(NULL, 64 KiB, PROT_READ|PROT_WRITE, MAP_SHARED, g, 0);",
        "memset(q, 'Z', 64 KiB);",
        "r = mmap(NULL, 64 KiB, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1, 0);",
        "for (i = 0; i < 64 KiB; i++) seen[r[i]] = 1;",
        "s = mmap(NULL, 64 KiB, PROT_READ, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);",
        "pread(g, buffer, 64 KiB, 0);",
    ]
    printed = _printed(run, tmp_path)
    assert "bytes read: {102}" in printed
    assert "bytes in the file: {90}" in printed
    assert [line.split()[0] for line in printed if "mapped" in line] == ["s", "r", "q", "p"]


def _change_mappings(bench):
    p = bench.map("p", PAGES)
    bench.write(p, "Z")
    assert bench.unmap(p.part("hole", 4, 1)) == 0
    assert bench.advise(p, Advice.FREE) == errno.ENOMEM
    q = bench.map("q", PAGES)
    bench.write(q, "Q")
    q = bench.remap(q, 2 * PAGES)
    bench.read(q)
    q = bench.remap(q, 1)
    assert bench.lock(q) == 0
    assert bench.advise(q, Advice.DONTNEED) == errno.EINVAL
    assert bench.unlock(q) == 0
    assert bench.protect(q, "r") == 0
    assert bench.touch(q, write=True) == signal.SIGSEGV
    assert bench.touch(q) == 0
    bench.look("Other lengths")


def test_changes_of_mappings_are_spelled_with_what_refused_them(tmp_path):
    """A part is named when it is first met, and a region that moved keeps its name."""
    run = _run(_change_mappings)
    assert _code(run)[2:] == [
        "hole = p + 16 KiB;",
        "munmap(hole, 4 KiB);",
        "madvise(p, 64 KiB, MADV_FREE);  /* ENOMEM */",
        "q = mmap(NULL, 64 KiB, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);",
        "memset(q, 'Q', 64 KiB);",
        "q = mremap(q, 64 KiB, 128 KiB, MREMAP_MAYMOVE);",
        "for (i = 0; i < 128 KiB; i++) seen[q[i]] = 1;",
        "q = mremap(q, 128 KiB, 4 KiB, MREMAP_MAYMOVE);",
        "mlock(q, 4 KiB);",
        "madvise(q, 4 KiB, MADV_DONTNEED);  /* EINVAL */",
        "munlock(q, 4 KiB);",
        "mprotect(q, 4 KiB, PROT_READ);",
        "for (i = 0; i < 4 KiB; i += 4 KiB) q[i] = 0;  /* SIGSEGV */",
        "for (i = 0; i < 4 KiB; i += 4 KiB) seen[q[i]] = 1;",
    ]
    printed = _printed(run, tmp_path)
    assert "bytes read: {0, 81}" in printed
    assert [line for line in printed if "signal" in line] == ["signal: 11", "signal: 0"]


def _fork(bench):
    p = bench.map("p", PAGES)
    bench.write(p, "P")
    with bench.fork("child") as child:
        assert child.write(p, "C") == Faults(PAGES, 0)
        child.look("It writes")
        assert bench.read(p).values == (ord("P"),)
        child.advise(p.part("q", 0, 1), Advice.DONTNEED)
        child.read(p)
    bench.look("The child is gone")


def test_what_a_child_does_bears_its_name(tmp_path):
    """In one transcript, in the order in which it was done; its steps show its own memory."""
    run = _run(_fork)
    assert [step.title for step in run.steps] == ["child: It writes", "The child is gone"]
    assert _code(run)[2:] == [
        "child = fork();",
        "/* child */ memset(p, 'C', 64 KiB);",
        "for (i = 0; i < 64 KiB; i++) seen[p[i]] = 1;",
        "/* child */ q = p + 0 KiB;",
        "/* child */ madvise(q, 4 KiB, MADV_DONTNEED);",
        "/* child */ for (i = 0; i < 64 KiB; i++) seen[p[i]] = 1;",
        "/* child */ _exit(0);",
    ]
    assert [step.facts["minor_faults"] for step in run.steps] == [PAGES, PAGES]
    printed = _printed(run, tmp_path)
    assert [line for line in printed if "bytes" in line] == ["bytes read: {80}", "bytes read: {0, 67}"]
    assert sum("mapped" in line for line in printed) == 2


def _use_threads(bench):
    thread = bench.start_thread("t", 512)
    bench.use_stack(thread, 256)
    used = bench.look("Used")
    assert used.held(thread.stack).present_pages == 256
    bench.end_thread(thread)
    ended = bench.look("Ended")
    assert ended.held(thread.stack).present_pages < 16


def test_threads_are_spelled_and_their_stacks_shown(tmp_path):
    """The stack is a region, and is looked at after the thread's end as well."""
    run = _run(_use_threads)
    assert _code(run) == [
        "pthread_attr_setstacksize(&attr, 2 MiB); pthread_create(&t, &attr, wait, NULL);",
        "/* t calls 1 MiB deep, and returns */",
        "sem_post(&enough); pthread_join(t, NULL);",
    ]
    assert all("t_stack" in step.regions for step in run.steps)
    printed = _printed(run, tmp_path)
    assert [line.split()[0] for line in printed] == ["t_stack", "t_stack"]
    assert "RSS 1024 KiB" in printed[0]


def _advise_in_all_ways(bench):
    vvar = bench.locate("vvar")
    assert bench.advise(vvar, Advice.DONTNEED) == errno.EINVAL
    p = bench.map("p", PAGES)
    bench.write(p, "Z")
    assert bench.posix_advise(p, PosixAdvice.DONTNEED) == 0
    assert bench.advise_vector([p.part("q", 0, 2), p.part("r", 4, 1)], Advice.DONTNEED) == 3 * PAGE_BYTES
    assert bench.look("Advised").held(p).pages == "--PP-" + "P" * 11


@pytest.mark.needs_kernel("6.13")
def test_all_ways_to_advise_are_spelled(tmp_path):
    """By madvise, by the C library, by a vector, and on what the kernel mapped."""
    run = _run(_advise_in_all_ways)
    vector = "(struct iovec[]){{q, 8 KiB}, {r, 4 KiB}}"
    assert _code(run) == [
        "vvar = /* where /proc/self/maps shows [vvar] */;",
        f"madvise(vvar, {_vvar_kib(run)} KiB, MADV_DONTNEED);  /* EINVAL */",
        "p = mmap(NULL, 64 KiB, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);",
        "memset(p, 'Z', 64 KiB);",
        "posix_madvise(p, 64 KiB, POSIX_MADV_DONTNEED);",
        "q = p + 0 KiB;",
        "r = p + 16 KiB;",
        f"process_madvise(PIDFD_SELF, {vector}, 2, MADV_DONTNEED, 0);  /* 12288 bytes */",
    ]
    assert "advised: 12288" in _printed(run, tmp_path)


def _vvar_kib(run):
    (step,) = run.steps
    return next(row.kbytes for row, region in zip(step.pmap, step.regions, strict=True) if region == "vvar")


@pytest.mark.needs_kernel("6.10")
def test_sealing_is_spelled(tmp_path):
    """And what the seal refuses."""

    def perform(bench):
        p = bench.map("p", PAGES, protection="r")
        assert bench.seal(p) == 0
        assert bench.advise(p, Advice.DONTNEED) == errno.EPERM
        assert bench.unmap(p) == errno.EPERM
        bench.look("Sealed")

    run = _run(perform)
    assert _code(run)[1:] == [
        "mseal(p, 64 KiB, 0);",
        "madvise(p, 64 KiB, MADV_DONTNEED);  /* EPERM */",
        "munmap(p, 64 KiB);  /* EPERM */",
    ]
    assert sum("mapped" in line for line in _printed(run, tmp_path)) == 1


@pytest.mark.needs_root
def test_swap_and_hugetlb_are_in_the_facts_and_the_transcript():
    """What pmap does not show; and frames, flags, and how much swap is used, for claims."""

    def perform(bench):
        with bench.swap(), bench.hugetlb_pool(1):
            p, q = bench.map("p", PAGES), bench.map("q", 512, kind=HUGETLB)
            bench.write(p, "Z")
            bench.write(q, "Z")
            before = bench.swap_used_bytes()
            bench.advise(p, Advice.PAGEOUT)
            bench.lock(q.part("r", 0, 1))
            seen = bench.look("Out")
            used = bench.swap_used_bytes() - before
            bench.claim("swap", f"{PAGES * PAGE_BYTES}", f"{used}")
            bench.claim(
                "hugetlb frames", "True", str(all(flags & 1 << 17 for flags in bench.frame_flags(seen.frames(q))))
            )

    run = _run(perform)
    assert run.passed
    (step,) = run.steps
    assert step.facts["swap_bytes"] == PAGES * PAGE_BYTES
    assert step.facts["hugetlb_bytes"] == 2 << 20
    text = "\n".join(format_run(run))
    assert "swap 64 KiB" in text
    assert "(swapon)" in text
    assert "MAP_PRIVATE|MAP_ANONYMOUS|MAP_HUGETLB" in text
    assert json.loads(json.dumps(run_document(run)))["passed"]


@pytest.mark.needs_root
@needs_huge_pages
def test_huge_pages_and_khugepaged_are_spelled():
    """A program would wait for khugepaged by itself, which takes ten seconds."""

    def perform(bench):
        p = bench.map("p", 512, huge=True)
        bench.write(p, "Z")
        assert bench.wait_for_khugepaged(p)
        bench.look("Huge")

    run = _run(perform)
    assert _code(run)[1] == "madvise(p, 2 MiB, MADV_HUGEPAGE);"
    assert run.steps[0].facts["huge_bytes"] == 2 << 20
    assert "dontneed.advise(p, Advice.HUGEPAGE)" in "\n".join(program(run))


# The bench itself


def test_a_mapping_that_the_kernel_has_not_made_is_lacking():
    """An experiment on it is skipped."""
    run = run_experiment(Experiment("test", "?", lambda bench: bench.locate("vwhat")))
    assert run.skipped == "the process has no [vwhat]"


def test_a_part_under_an_old_name_is_introduced_again():
    """Whoever reads the transcript knows at every line what a name means."""

    def perform(bench):
        p = bench.map("p", PAGES)
        for first in (1, 2, 1):
            bench.advise(p.part("q", first, 1), Advice.DONTNEED)
        bench.look("Thrice")

    code = _code(_run(perform))
    assert [line for line in code if line.startswith("q =")] == ["q = p + 4 KiB;", "q = p + 8 KiB;", "q = p + 4 KiB;"]


def test_what_fails_in_a_child_ends_it():
    """No process is left behind, whatever an experiment does; its bench is on the same machine as its parent's."""
    machine = LiveMachine()
    with machine.start() as process:
        bench = Bench(process, machine.kernel)
        child = bench.fork("child")
        assert (child.machine, child.libc) == (bench.machine, machine.libc)
        assert child.steps is bench.steps
        with suppress(ZeroDivisionError), child:
            1 // 0  # noqa: B018
        with pytest.raises(ProcessGone):
            child.look("It is gone")
        bench.look("It is there")
