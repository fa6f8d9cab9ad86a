"""What is in the page cache, of files on a disk, on tmpfs, on an overlay, of others, sparse, open, and changing."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dontneed
from dontneed.kernel import cachestat
from dontneed.kernel.statfs import IN_MEMORY, OVERLAY, file_system_number
from dontneed.observe.cache import page_cache
from dontneed.units import MIB, PAGE_BYTES

PAGES = 300


@pytest.fixture
def on_disk(tmp_path):
    """A directory whose files are on a disk."""
    fd = os.open(tmp_path, os.O_RDONLY)
    kind = file_system_number(fd)
    os.close(fd)
    if kind in IN_MEMORY or kind == OVERLAY:
        pytest.skip("needs a temporary directory on a disk")
    return tmp_path


@pytest.fixture
def by_mincore(monkeypatch):
    """As on a kernel without cachestat."""
    monkeypatch.setattr(page_cache, "page_counter", lambda: None)


def written(path, pages=PAGES):
    """A file whose pages are all cached and clean, one by one: a large folio goes whole or not at all."""
    with path.open("wb", buffering=0) as file:
        for _ in range(pages):
            file.write(b"x" * PAGE_BYTES)
        os.fsync(file.fileno())
    return path


def drop(path, start=0, pages=0):
    """Take clean pages of a file out of the cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), start * PAGE_BYTES, pages * PAGE_BYTES, os.POSIX_FADV_DONTNEED)


def only(paths, **options):
    """The one file that is found."""
    (file,) = dontneed.cache(paths, **options).files
    return file


@pytest.mark.parametrize("how", ["as it comes", "by mincore"])
def test_what_was_dropped_is_not_cached(on_disk, how, request):
    """By cachestat and by mincore alike, page by page."""
    if how == "by mincore":
        request.getfixturevalue("by_mincore")
    file = written(on_disk / "file")
    assert only(file).cached_pages == PAGES
    drop(file, 100, 50)
    found = only(file, maps=True)
    assert (found.cached_pages, found.pages) == (PAGES - 50, PAGES)
    assert found.runs == ((0, 100), (150, PAGES - 150))
    drop(file)
    assert only(file, maps=True).runs == ()


@pytest.mark.needs_feature("cachestat")
def test_dirty_pages_are_counted_and_stay_through_an_eviction(on_disk):
    """Nothing is waited for: what was not written yet is left, and said to be."""
    file = written(on_disk / "file")
    with file.open("r+b") as changed:
        changed.write(b"y" * 3 * PAGE_BYTES)
        changed.flush()
        assert only(file).dirty_bytes == 3 * PAGE_BYTES
        found = dontneed.evict(file)
        assert found.total.cached_bytes == PAGES * PAGE_BYTES
        in_use = found.total.dirty_bytes + found.total.writeback_bytes
        assert found.total.left_bytes >= in_use
        os.fsync(changed.fileno())
    assert dontneed.evict(file).total.left_bytes == 0
    assert file.read_bytes() == b"y" * 3 * PAGE_BYTES + b"x" * (PAGES - 3) * PAGE_BYTES


def test_mapped_pages_stay_through_an_eviction(on_disk):
    """Who has it mapped keeps it, and the rest goes."""
    file = written(on_disk / "file")
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)
        drop(file)
        assert mapped[5 * PAGE_BYTES] == ord("x")
        assert dontneed.evict(file).total.left_bytes >= PAGE_BYTES
        assert (5, 1) in [(start, 1) for start, _ in only(file, maps=True).runs]
    assert dontneed.evict(file).total.left_bytes == 0


def test_files_in_memory_stay_and_are_told_apart():
    """The pages of a tmpfs are the file."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs /dev/shm")
    file = Path(f"/dev/shm/dontneed-test-{os.getpid()}")
    try:
        file.write_bytes(b"x" * 10 * PAGE_BYTES)
        found = dontneed.evict(file)
        assert (found.in_memory_bytes, found.total.left_bytes) == (10 * PAGE_BYTES, 10 * PAGE_BYTES)
        assert only(file, maps=True).runs == ((0, 10),)
        assert file.read_bytes() == b"x" * 10 * PAGE_BYTES
    finally:
        file.unlink()


def test_a_sparse_file_counts_what_was_read_of_it(on_disk):
    """A hole has pages in the cache when somebody read it, and a terabyte of nothing is looked through at once."""
    file = on_disk / "sparse"
    with file.open("wb") as made:
        os.truncate(made.fileno(), 1 << 40)
    assert only(file, maps=True).runs == ()
    with file.open("rb", buffering=0) as read:
        os.posix_fadvise(read.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(read.fileno(), 1, 1 << 39)
    found = only(file, maps=True)
    assert found.runs == (((1 << 39) // PAGE_BYTES, 1),)
    assert found.size_bytes == 1 << 40
    drop(file)


def test_an_empty_file_is_a_file(on_disk):
    """With no page, and nothing to ask the kernel."""
    (on_disk / "empty").touch()
    found = dontneed.cache(on_disk, maps=True)
    assert (found.total.files, found.total.pages, found.files[0].runs) == (1, 0, ())
    assert dontneed.evict(on_disk).total.left_bytes == 0


def test_a_file_of_several_names_counts_once(on_disk):
    """As does one that is named and lies in a directory that is named."""
    file = written(on_disk / "file", 3)
    (on_disk / "again").hardlink_to(file)
    found = dontneed.cache([on_disk, file])
    assert (found.total.files, found.total.cached_bytes, found.hard_links) == (1, 3 * PAGE_BYTES, 2)


@pytest.mark.usefixtures("by_mincore")
def test_a_file_that_is_truncated_meanwhile_is_read_for_what_is_left(on_disk, monkeypatch):
    """No page is touched, so that none can be missing."""
    file = written(on_disk / "file")
    ask = page_cache.cached_runs

    def late(fd, size, counter):
        os.truncate(file, PAGE_BYTES)
        return ask(fd, size, counter)

    monkeypatch.setattr(page_cache, "cached_runs", late)
    assert only(file).cached_pages == 1


def test_a_file_that_goes_meanwhile_is_counted(on_disk, monkeypatch):
    """No failure: trees live."""
    written(on_disk / "gone", 1)
    kept = written(on_disk / "kept", 1)
    walk = page_cache.walk

    def late(*arguments, **options):
        for directory in walk(*arguments, **options):
            (on_disk / "gone").unlink()
            yield directory

    monkeypatch.setattr(page_cache, "walk", late)
    found = dontneed.cache(on_disk)
    assert ([file.path for file in found.files], found.vanished, found.unread) == ([str(kept)], 1, ())


def test_a_file_that_is_moved_meanwhile_is_found_where_it_went(on_disk, monkeypatch):
    """A file is one that was counted only once it was: not when its name was read and led nowhere."""
    for name in ("from", "to"):
        (on_disk / name).mkdir()
    written(on_disk / "from" / "file", 1)
    walk = page_cache.walk

    def late(*arguments, **options):
        for directory in walk(*arguments, **options):
            if directory.path.endswith("/from/"):
                (on_disk / "from" / "file").rename(on_disk / "to" / "file")
            yield directory

    monkeypatch.setattr(page_cache, "walk", late)
    found = dontneed.cache([on_disk / "from", on_disk / "to"])
    assert ([file.path for file in found.files], found.vanished) == ([f"{on_disk}/to/file"], 1)


def test_names_that_are_no_text_are_kept(on_disk):
    """A name is bytes, and comes back as the same bytes."""
    name = os.fsencode(on_disk) + b"/\xff\n"
    with open(name, "wb") as file:
        file.write(b"x")
    assert [os.fsencode(file.path) for file in dontneed.cache(on_disk).files] == [name]
    assert only(name).cached_pages == 1


TELL = """if True:
    import json, sys
    import dontneed
    from dontneed.observe.cache import page_cache
    if {by_mincore}:
        page_cache.page_counter = lambda: None
    found = dontneed.{call}({paths!r})
    unread = [[each.path, each.errno, each.why] for each in found.unread]
    print(json.dumps([[file.path for file in found.files], unread]))
"""


@pytest.mark.needs_root
@pytest.mark.parametrize("by_mincore", [False, True])
def test_what_the_kernel_does_not_tell_a_stranger_is_told_and_not_believed(as_nobody, by_mincore):
    """One call refuses, if it is that new; the other says that all is cached, and a page beyond the end betrays it."""
    directory = Path(f"/var/tmp/dontneed-test-{os.getpid()}")
    directory.mkdir(mode=0o755)
    try:
        theirs, closed, shared = (written(directory / name) for name in ("theirs", "closed", "shared"))
        theirs.chmod(0o644)
        closed.chmod(0o600)
        shared.chmod(0o666)
        drop(theirs)
        done = as_nobody(TELL.format(by_mincore=by_mincore, call="cache", paths=[str(directory)]))
        assert done.returncode == 0, done.stderr
        files, unread = json.loads(done.stdout)
        refused = {path: (number, why) for path, number, why in unread}
        assert refused[str(closed)] == (errno.EACCES, "may not be opened (EACCES)")
        assert str(shared) in files
        if str(theirs) in refused:
            assert refused[str(theirs)][0] == errno.EPERM
            assert ("mincore" if by_mincore else "cachestat") in refused[str(theirs)][1]
        else:
            assert not by_mincore  # before 6.14, cachestat tells everyone
    finally:
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()


@pytest.mark.needs_root
@pytest.mark.parametrize("by_mincore", [False, True])
def test_a_stranger_evicts_what_it_may_read_and_cannot_count(as_nobody, by_mincore):
    """POSIX_FADV_DONTNEED takes an open file and no more; that nobody could look at it is told."""
    file = Path(f"/var/tmp/dontneed-test-{os.getpid()}")
    try:
        written(file).chmod(0o644)
        done = as_nobody(TELL.format(by_mincore=by_mincore, call="evict", paths=[str(file)]))
        told = "nothing could be read" in done.stderr and "was asked to let go of it all the same" in done.stderr
        assert told or json.loads(done.stdout)[0] == [str(file)]
        assert only(file).cached_pages == 0
    finally:
        file.unlink()


@pytest.mark.needs_root
def test_a_file_of_an_overlay_is_not_called_absent(on_disk):
    """The call cachestat looks where an overlay has nothing, and would say 0 of every file in a container."""
    program = f"""if True:
        import subprocess, sys
        sys.path[:0] = {sys.path!r}
        import dontneed
        options = "lowerdir={on_disk}/low,upperdir={on_disk}/up,workdir={on_disk}/work"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, "{on_disk}/all"]
        if subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
            sys.exit("no overlay")
        found = dontneed.cache("{on_disk}/all")
        left = dontneed.evict("{on_disk}/all").total.left_bytes
        print(found.method, found.total.files, found.total.cached_bytes, left)
    """
    for name in ("low", "up", "work", "all"):
        (on_disk / name).mkdir()
    written(on_disk / "low" / "file", 7)
    command = ["unshare", "--mount", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "no overlay" in done.stderr or "unshare" in done.stderr:
        pytest.skip("needs an overlay to be mounted")
    assert done.stdout.split() == ["mincore", "1", str(7 * PAGE_BYTES), "0"], done.stderr


def test_windows_are_joined_where_they_touch(on_disk, monkeypatch):
    """A long file is asked for in pieces, and nobody sees where they meet."""
    monkeypatch.setattr(cachestat, "WINDOW_BYTES", 64 * PAGE_BYTES)
    file = written(on_disk / "file")
    assert only(file, maps=True).runs == ((0, PAGES),)
    drop(file, 60, 8)
    assert only(file, maps=True).runs == ((0, 60), (68, PAGES - 68))


class FewCounts(cachestat.PageCounter):
    """One that loses its patience."""

    left = 300

    def count(self, fd, length, start=0):
        """As its own, some hundred times."""
        self.left -= 1
        assert self.left
        return super().count(fd, length, start)


def test_the_pages_of_a_vast_sparse_file_are_soon_found():
    """A file can be longer than anyone can wait for, gibibyte by gibibyte; nearly all of it is a hole."""
    if cachestat.page_counter() is None:
        pytest.skip("needs cachestat")
    fd = os.memfd_create("vast")
    try:
        os.ftruncate(fd, (1 << 62) + 1)
        for place in (0, 1 << 61, 1 << 62):
            os.pwrite(fd, b"x", place)
        runs = cachestat.cached_runs(fd, (1 << 62) + 1, FewCounts())
    finally:
        os.close(fd)
    assert runs == [(0, 1), ((1 << 61) // PAGE_BYTES, 1), ((1 << 62) // PAGE_BYTES, 1)]


def test_nothing_is_read_by_looking(on_disk):
    """A look that cached what it looks at would answer another question the second time."""
    file = on_disk / "file"
    file.write_bytes(b"x" * MIB)
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    drop(file)
    dontneed.cache(on_disk, maps=True)
    assert only(file, maps=True).cached_bytes == 0


def test_nothing_at_all_that_could_be_read_is_an_error(tmp_path):
    """An answer of no files would be taken for an empty cache."""
    with pytest.raises(dontneed.DontneedError, match="nothing could be read"):
        dontneed.cache(tmp_path / "missing")
    with pytest.raises(dontneed.UsageError):
        dontneed.cache([])
    for no_path in (1, None, [1], "\ud800"):
        with pytest.raises(dontneed.UsageError):
            dontneed.cache(no_path)
    assert dontneed.cache(tmp_path).total.files == 0
