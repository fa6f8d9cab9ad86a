"""How the words of an experiment are spelled in C, for its transcript, and in Python, for who wants to try it.

A call in Python is one line, of a program that has the functions of `lab/prelude.py`.
"""

from __future__ import annotations

import errno
import signal

from dontneed.lab import prelude
from dontneed.lab.machine import HUGETLB, PRIVATE_ANONYMOUS, SHARED_ANONYMOUS, SHARED_FILE
from dontneed.records import Record
from dontneed.units import GIB, KIB, MIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dontneed.abi.advice import Advice, PosixAdvice
    from dontneed.lab.machine import File, Region, Thread
    from dontneed.report.transcript import Run

_UNITS = ((GIB, "GiB", 30), (MIB, "MiB", 20), (KIB, "KiB", 10))
_SHARED_KINDS = (SHARED_ANONYMOUS, SHARED_FILE)


class Spelling(Record):
    """One call in both languages."""

    c: str
    python: str

    def by(self, child: str) -> Spelling:
        """The same call, made by a forked child."""
        return Spelling(f"/* {child} */ {self.c}", _in_child(child, self.python))

    def refused(self, number: int) -> Spelling:
        """The same call, with the errno of its refusal; nothing more for 0."""
        if not number:
            return self
        name = errno.errorcode.get(number, str(number))
        return Spelling(f"{self.c}  /* {name} */", f"with suppress(OSError): {self.python}")


# Mappings


def mapping(region: Region, kind: str, file: File | None, protection: str, *, huge: bool) -> Spelling:
    """Map memory; huge pages are asked for in a second call."""
    flags = ["MAP_SHARED" if kind in _SHARED_KINDS else "MAP_PRIVATE"]
    flags += [] if file else ["MAP_ANONYMOUS"]
    flags += ["MAP_HUGETLB"] if kind == HUGETLB else []
    fd = file.name if file else "-1"
    c = f"{region.name} = mmap(NULL, {_size(region)}, {_protection(protection)}, {'|'.join(flags)}, {fd}, 0);"
    size = _size_in_python(region)
    if kind in (PRIVATE_ANONYMOUS, SHARED_ANONYMOUS) and protection == "rw":
        named = " | ".join(f"mmap.{flag}" for flag in flags)
        python = f"{region.name} = mmap.mmap(-1, {size}, flags={named})"
    else:
        named = " | ".join(f"mappings.{flag}" for flag in flags)
        words = f"protection={_protection(protection, 'mappings.')}, flags={named}, fd={fd}"
        python = f"{region.name} = memory_at(mappings.map_memory({size}, {words}), {size})"
    if huge:
        c += f"\nmadvise({region.name}, {_size(region)}, MADV_HUGEPAGE);"
        python += f"; dontneed.advise({region.name}, Advice.HUGEPAGE)"
    return Spelling(c, python)


def naming_part(part: Region, whole: Region) -> Spelling:
    """Name a part of a region."""
    first = part.start - whole.start
    first_word, end_word = _bytes_in_python(first), _bytes_in_python(first + part.size_bytes)
    return Spelling(
        f"{part.name} = {whole.name} + {_bytes(first)};",
        f"{part.name} = memoryview({whole.name})[{first_word} : {end_word}]",
    )


def locating(region: Region) -> Spelling:
    """Find a mapping that the kernel made."""
    name = region.name
    return Spelling(f"{name} = /* where /proc/self/maps shows [{name}] */;", f'{name} = memory_named("[{name}]")')


def unmapping(region: Region) -> Spelling:
    """Unmap memory."""
    return Spelling(f"munmap({region.name}, {_size(region)});", f"unmap({region.name})")


def protecting(region: Region, protection: str) -> Spelling:
    """Change what may be done with memory."""
    name = region.name
    return Spelling(
        f"mprotect({name}, {_size(region)}, {_protection(protection)});",
        f"mappings.protect_memory(address_of({name}), len({name}), {_protection(protection, 'mappings.')})",
    )


def remapping(region: Region, moved: Region) -> Spelling:
    """Give memory another length or place."""
    name = region.name
    return Spelling(
        f"{name} = mremap({name}, {_size(region)}, {_size(moved)}, MREMAP_MAYMOVE);",
        f"{name} = remap({name}, {_size_in_python(moved)})",
    )


def sealing(region: Region) -> Spelling:
    """Seal memory."""
    return _on_addresses(region, "mseal({0}, {1}, 0);", "seal_memory")


def locking(region: Region) -> Spelling:
    """Lock memory."""
    return _on_addresses(region, "mlock({0}, {1});", "lock_memory")


def unlocking(region: Region) -> Spelling:
    """Unlock memory."""
    return _on_addresses(region, "munlock({0}, {1});", "unlock_memory")


# Advice


def advising(region: Region, advice: Advice) -> Spelling:
    """Advise the kernel."""
    return Spelling(
        f"madvise({region.name}, {_size(region)}, {advice});",
        f"dontneed.advise({region.name}, Advice.{advice.name})",
    )


def advising_vector(regions: Sequence[Region], advice: Advice, result: int) -> Spelling:
    """Advise the kernel on several regions at once; `result` is what the call returned, or an errno, negative."""
    vector = ", ".join(f"{{{region.name}, {_size(region)}}}" for region in regions)
    spans = ", ".join(f"(address_of({region.name}), len({region.name}))" for region in regions)
    answer = errno.errorcode.get(-result, str(-result)) if result < 0 else f"{result} bytes"
    return Spelling(
        f"process_madvise(PIDFD_SELF, (struct iovec[]){{{vector}}}, {len(regions)}, {advice}, 0);  /* {answer} */",
        f'print("advised:", advise_vector([{spans}], Advice.{advice.name}))',
    )


def advising_posix(region: Region, advice: PosixAdvice) -> Spelling:
    """Advise the C library."""
    return Spelling(
        f"posix_madvise({region.name}, {_size(region)}, POSIX_MADV_{advice.name});",
        f"dontneed.posix_madvise({region.name}, PosixAdvice.{advice.name})",
    )


# Contents


def writing(region: Region, letter: str) -> Spelling:
    """Fill memory with a letter."""
    return Spelling(
        f"memset({region.name}, '{letter}', {_size(region)});",
        f'{region.name}[:] = b"{letter}" * ({_size_in_python(region)})',
    )


def reading(region: Region) -> Spelling:
    """Read memory, every byte."""
    return Spelling(
        f"for (i = 0; i < {_size(region)}; i++) seen[{region.name}[i]] = 1;",
        f'print("bytes read:", set({region.name}[:]))',
    )


def touching(region: Region, raised: int, *, write: bool) -> Spelling:
    """Touch each page; `raised` is the signal that ended this, or 0."""
    name = region.name
    touch = f"{name}[i] = 0;" if write else f"seen[{name}[i]] = 1;"
    answer = f"  /* {signal.Signals(raised).name} */" if raised else ""
    return Spelling(
        f"for (i = 0; i < {_size(region)}; i += {_bytes(PAGE_BYTES)}) {touch}{answer}",
        f'print("signal:", touch_surviving(address_of({name}), {region.pages}, write={write}))',
    )


def creating_file(file: File, letter: str) -> Spelling:
    """Make a file without a name, filled and written back."""
    name, size = file.name, _bytes(file.size_bytes)
    made = f'{name} = memfd_create("{name}", 0);' if file.in_memory else f"{name} = fileno(tmpfile());"
    return Spelling(
        f'{made} for (i = 0; i < {size}; i++) write({name}, "{letter}", 1); fsync({name});',
        f'{name} = create_file({file.pages}, ord("{letter}"), in_memory={file.in_memory})',
    )


def reading_file(file: File) -> Spelling:
    """Read a file, every byte."""
    return Spelling(
        f"pread({file.name}, buffer, {_bytes(file.size_bytes)}, 0);",
        f'print("bytes in the file:", set(os.pread({file.name}, {_bytes_in_python(file.size_bytes)}, 0)))',
    )


def showing(region: str, child: str = "") -> str:
    """Show the mapping of a region, in Python; a transcript shows what pmap says."""
    line = f'show("{region}", {region})'
    return _in_child(child, line) if child else line


# Processes and threads


def forking(name: str) -> Spelling:
    """Fork a child."""
    return Spelling(f"{name} = fork();", f"{name} = Child()")


def ending() -> Spelling:
    """End; said by a forked child."""
    return Spelling("_exit(0);", "os._exit(0)")


def starting_thread(thread: Thread, stack_pages: int) -> Spelling:
    """Start a thread that waits."""
    name, stack = thread.name, thread.stack
    size = stack_pages * PAGE_BYTES
    return Spelling(
        f"pthread_attr_setstacksize(&attr, {_bytes(size)}); pthread_create(&{name}, &attr, wait, NULL);",
        f"{name} = threads.start_thread({_bytes_in_python(size)}); "
        f"{stack.name} = memory_at({name}.stack_start, {name}.stack_bytes)",
    )


def using_stack(thread: Thread, pages: int) -> Spelling:
    """Use a thread's stack down to a depth."""
    size = _bytes(pages * PAGE_BYTES)
    return Spelling(
        f"/* {thread.name} calls {size} deep, and returns */",
        f"threads.use_stack({thread.name}, {_bytes_in_python(pages * PAGE_BYTES)})",
    )


def ending_thread(thread: Thread) -> Spelling:
    """Let a thread return, and join it."""
    return Spelling(f"sem_post(&enough); pthread_join({thread.name}, NULL);", f"threads.end_thread({thread.name})")


# The machine


def swapping_on() -> Spelling:
    """Have swap space."""
    return Spelling("/* there is swap space from here on (swapon) */", "# from here on with swap space")


def reserving_hugetlb(huge_pages: int) -> Spelling:
    """Have huge pages in the pool."""
    return Spelling(
        f"/* {huge_pages} huge pages are free in the hugetlb pool (vm.nr_hugepages) */",
        f"# with {huge_pages} free pages in the hugetlb pool (sysctl vm.nr_hugepages)",
    )


def waiting_for_khugepaged(region: Region) -> Spelling:
    """Wait until khugepaged has been there."""
    return Spelling(
        f"while (/* AnonHugePages of {region.name} are missing */) sleep(1);", f"wait_until_huge({region.name})"
    )


# All of them


def program(run: Run) -> list[str]:
    """A Python program that does what the steps of `run` did, and shows the experiment's memory after each."""
    body = [line for step in run.steps for line in ("", f"# {step.title}", *step.python.splitlines())]
    return [*prelude.head(run.question, run.experiment, "\n".join(body)), *body]


# Names, sizes and flags


def _in_child(child: str, line: str) -> str:
    return f"{child}({line!r})"


def _on_addresses(region: Region, c: str, function: str) -> Spelling:
    name = region.name
    return Spelling(c.format(name, _size(region)), f"mappings.{function}(address_of({name}), len({name}))")


def _protection(letters: str, prefix: str = "") -> str:
    """The PROT_* of letters, joined as C does it, or Python with a prefix."""
    words = [word for letter, word in (("r", "PROT_READ"), ("w", "PROT_WRITE")) if letter in letters] or ["PROT_NONE"]
    return (" | " if prefix else "|").join(prefix + word for word in words)


def _size(region: Region) -> str:
    return _bytes(region.size_bytes)


def _size_in_python(region: Region) -> str:
    return _bytes_in_python(region.size_bytes)


def _bytes(count: int) -> str:
    unit, name, _ = _unit(count)
    return f"{count // unit} {name}"


def _bytes_in_python(count: int) -> str:
    unit, _, shift = _unit(count)
    return f"{count // unit} << {shift}"


def _unit(count: int) -> tuple[int, str, int]:
    """The largest unit that a count of bytes is a whole number of; a page is so many KiB."""
    return next(unit for unit in _UNITS if count % unit[0] == 0) if count else _UNITS[-1]
