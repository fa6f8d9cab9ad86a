"""Give POSIX advice where the kernel's would be given: glibc and musl drop POSIX_MADV_DONTNEED, and say nothing."""

from __future__ import annotations

from dontneed.abi.advice import Advice, PosixAdvice
from dontneed.lab.bench import Bench
from dontneed.lab.experiment import Experiment, answer, contents, kib
from dontneed.lab.libraries import library_of, machines_with_each
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.machine import Machine, Region

PAGES = 64
SIZE = PAGES * PAGE_BYTES
LETTER = "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    library_of(bench.machine)
    p = bench.map("p", PAGES)
    hole = p.part("hole", PAGES - 1, 1)
    _advise_libraries(bench, p)
    _advise_kernel(bench, p)
    bench.unmap(hole)
    _advise_nothing(bench, hole)


def _advise_libraries(bench: Bench, p: Region) -> None:
    found = {bench.libc: _found_after_posix(bench, p)}
    for machine in machines_with_each(bench.machine):
        library = library_of(machine)
        text = f"found after POSIX_MADV_DONTNEED ({library})"
        observed = found.get(machine.libc) or _found_elsewhere(bench, machine)
        bench.claim(text, "zeros" if library.posix_discards else LETTER, observed)


def _found_after_posix(bench: Bench, p: Region) -> str:
    bench.write(p, LETTER)
    bench.posix_advise(p, PosixAdvice.DONTNEED)
    bench.look("Write to memory, and give it up as POSIX has it")
    return contents(bench.read(p).values)


def _found_elsewhere(bench: Bench, machine: Machine) -> str:
    """The same in a process of another machine, at a bench whose transcript nobody reads."""
    with machine.start() as process:
        other = Bench(process, bench.kernel)
        return _found_after_posix(other, other.map("p", PAGES))


def _advise_kernel(bench: Bench, p: Region) -> None:
    bench.write(p, LETTER)  # once more, if it went
    before = bench.look("Read it, and write to it again").held(p)
    bench.advise(p, Advice.DONTNEED)
    after = bench.look("Give it up as Linux has it").held(p)
    found = bench.read(p).values
    bench.claim("RSS by MADV_DONTNEED", kib(SIZE, 0), kib(before.rss_bytes, after.rss_bytes))
    bench.claim("found after MADV_DONTNEED", "zeros", contents(found))


def _advise_nothing(bench: Bench, hole: Region) -> None:
    """Where nothing is mapped, whoever looks is bound to find that out."""
    dropped = bench.posix_advise(hole, PosixAdvice.DONTNEED)
    handed_on = bench.posix_advise(hole, PosixAdvice.RANDOM)
    refused = bench.advise(hole, Advice.DONTNEED)
    bench.look("Ask for it where nothing is mapped; and give other advice there, which is handed on")
    looks = library_of(bench.machine).posix_discards
    bench.claim("answer to POSIX_MADV_DONTNEED in a hole", "ENOMEM" if looks else "accepted", answer(dropped))
    bench.claim("answer to POSIX_MADV_RANDOM in a hole", "ENOMEM", answer(handed_on))
    bench.claim("answer to MADV_DONTNEED in a hole", "ENOMEM", answer(refused))


EXPERIMENT = Experiment(
    "posix-madvise-does-nothing",
    "Does POSIX_MADV_DONTNEED give memory up?",
    perform,
)
