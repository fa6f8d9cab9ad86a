"""`clean-file`: pages that are as they are on disk go without a stop; copies, and what others map, do not."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
import pytest

from dontneed import Span, Spans
from dontneed.kernel.files import count_cached_pages
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.file_systems import read_file_systems
from dontneed.reasons import clean_file
from dontneed.reasons.survey import Limits

from .native_target import OF_FILE, PAGE, PRESENT, entries_of, subject_of

MIB = 1 << 20
SIZE = 4 * MIB
MAPPED_HERE = MIB
"""So much of the file is mapped by the tests' own process too, from its start on."""
CHANGED = range(512, 522)
"""Pages that the child has copies of."""

STRAY_PAGES = 64
"""A page that was touched just now may wait in the queue of another processor, out of the kernel's own reach."""

CODE = f"""
import ctypes, hashlib, mmap
with open({{path!r}}, "rb") as file:
    contents = file.read()
    held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
sum(held[::{PAGE}])
for page in range({CHANGED.start}, {CHANGED.stop}):
    held[page * {PAGE} + 5] = 77
expected = bytearray(contents)
for page in range({CHANGED.start}, {CHANGED.stop}):
    expected[page * {PAGE} + 5] = 77
print(ctypes.addressof(ctypes.c_char.from_buffer(held)))
{{then}}
print(hashlib.sha256(held).digest() == hashlib.sha256(expected).digest())
"""


@pytest.fixture
def file():
    """A file on a disk, written back; its pages are in the page cache one by one: a large write makes large folios."""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as opened:
        with ProcessDirectory() as ourselves:
            device = os.fstat(opened.fileno()).st_dev
            system = read_file_systems(ourselves).get(f"{os.major(device):02x}:{os.minor(device):02x}")
        if system is None or not system.reads_again:
            pytest.skip("needs /var/tmp on a disk")
        contents = np.random.default_rng(1).integers(1, 255, SIZE, np.uint8).tobytes()
        for at in range(0, SIZE, PAGE):
            os.pwrite(opened.fileno(), contents[at : at + PAGE], at)
        os.fsync(opened.fileno())
        yield opened


@pytest.mark.needs_root
def test_unmodified_pages_go_from_the_process_and_from_the_cache(child, file):
    """All but what the tests' process maps as well, and but private copies, which could only go to swap."""
    here = mmap.mmap(file.fileno(), MAPPED_HERE, prot=mmap.PROT_READ)
    assert sum(here[::PAGE])
    target = child(CODE.format(path=file.name, then="pause()"))
    start = int(target.said[0])
    with subject_of(target.pid) as subject:
        found = clean_file.survey(subject)
        released = clean_file.release(subject, found, Limits())
    ours = Spans([Span(start, start + SIZE)])
    copies = Spans([Span(start + CHANGED.start * PAGE, start + CHANGED.stop * PAGE)])
    assert found.spans & ours == Spans([Span(start + MAPPED_HERE, start + SIZE)]) - copies
    assert "mapped by other processes" in "; ".join(found.refused)
    assert released.pauses == ()

    entries = entries_of(target.pid, start, start + SIZE)
    present, of_file = entries & np.uint64(PRESENT) != 0, entries & np.uint64(OF_FILE) != 0
    shared = MAPPED_HERE // PAGE
    assert present[:shared].all()
    assert (present & ~of_file).nonzero()[0].tolist() == list(CHANGED)
    assert np.count_nonzero(present[shared:] & of_file[shared:]) <= STRAY_PAGES
    assert count_cached_pages(file.fileno()) <= shared + len(CHANGED) + STRAY_PAGES
    assert target.proceed() == ["True"]
    here.close()


@pytest.mark.needs_root
def test_files_in_memory_are_not_touched(child):
    """There is no disk to read them from again: they would go to swap."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(SIZE))
        file.flush()
        target = child(CODE.format(path=file.name, then="pause()"))
        start = int(target.said[0])
        with subject_of(target.pid) as subject:
            found = clean_file.survey(subject)
        assert not found.spans & Spans([Span(start, start + SIZE)])
        assert target.proceed() == ["True"]


def test_the_own_process_needs_no_rights(child, file):
    """Whoever may write a file may page it out of his own memory."""
    then = """
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.subject import read_subject
from dontneed.reasons import clean_file
from dontneed.reasons.survey import Limits
with ProcessDirectory() as process:
    subject = read_subject(process)
    print(clean_file.release(subject, clean_file.survey(subject), Limits()).advised)
pause()
"""
    target = child(CODE.format(path=file.name, then=then))
    start, advised = map(int, target.said)
    entries = entries_of(target.pid, start, start + SIZE)
    assert advised >= SIZE - len(CHANGED) * PAGE
    assert np.count_nonzero(entries & np.uint64(PRESENT)) <= len(CHANGED) + STRAY_PAGES
    assert target.proceed() == ["True"]


@pytest.mark.needs_root
def test_without_the_right_nothing_is_offered(as_nobody):
    """And the survey says which one it takes."""
    said = as_nobody(
        "import subprocess, sys\n"
        "from dontneed.kernel.procfs import ProcessDirectory\n"
        "from dontneed.observe.subject import read_subject\n"
        "from dontneed.reasons import clean_file\n"
        "target = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "with ProcessDirectory(target.pid) as process:\n"
        "    found = clean_file.survey(read_subject(process))\n"
        "print(found.releasable_bytes, found.refused[0])\n"
        "target.kill(); target.wait(); target.stdin.close()\n"
    )
    assert said.stderr == ""
    assert said.stdout.startswith("0 ")
    assert "CAP_SYS_NICE" in said.stdout
