"""Which files a walk finds below a path, and what it passes by, on trees made for it."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from dontneed.observe.cache import file_tree
from dontneed.observe.cache.file_tree import Passed, walk


def found(*paths, **options):
    """The paths that a walk finds, in order, and what it passed by."""
    passed = Passed()
    files = [each.path + name for each in walk(map(str, paths), passed, **options) for name in each.names]
    return sorted(files), passed


def make(path, size=1):
    """A file; its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return str(path)


def test_a_tree_is_walked_to_its_leaves(tmp_path):
    """Files of all depths, each once, and every directory counted."""
    files = [make(tmp_path / name) for name in ("a", "b/c", "b/d/e", ".hidden/f")]
    assert found(tmp_path)[0] == sorted(files)
    assert found(tmp_path)[1].directories == 4


def test_a_slash_at_the_end_of_a_path_is_not_doubled(tmp_path):
    """A path is printed as a person would write it."""
    file = make(tmp_path / "a")
    assert found(f"{tmp_path}/")[0] == [file]


def test_a_link_is_followed_where_it_is_named_and_nowhere_else(tmp_path):
    """As vmtouch: what lies elsewhere belongs to elsewhere, unless one asked for it."""
    elsewhere = make(tmp_path / "elsewhere" / "a")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "directory").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here" / "file").symlink_to(elsewhere)
    (tmp_path / "here" / "nowhere").symlink_to("missing")
    files, passed = found(tmp_path / "here")
    assert (files, passed.symlinks, passed.unread) == ([], 3, [])
    assert found(tmp_path / "here" / "directory")[0] == [f"{tmp_path}/here/directory/a"]
    assert found(tmp_path / "here" / "file")[0] == [f"{tmp_path}/here/file"]


def test_what_is_no_file_is_counted_and_never_opened(tmp_path):
    """To open a FIFO waits for its writer, and to open a device may do anything."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        files, passed = found(tmp_path)
    assert (files, passed.special, passed.unread) == ([], 2, [])


def test_what_is_no_file_and_was_named_is_told(tmp_path):
    """Somebody expected something of it."""
    os.mkfifo(tmp_path / "fifo")
    told = [found(tmp_path / "fifo")[1].unread[0].why, found("/dev/null")[1].unread[0].why]
    assert [why.split(",")[0] for why in told] == ["a FIFO", "a character device"]


def test_a_path_that_is_not_there_is_told_and_the_others_are_walked(tmp_path):
    """One wrong word does not cost the rest of the answer."""
    file = make(tmp_path / "a")
    files, passed = found(tmp_path / "missing", file)
    assert files == [file]
    assert [(each.path, each.errno) for each in passed.unread] == [(f"{tmp_path}/missing", errno.ENOENT)]


def test_links_in_a_circle_are_told(tmp_path):
    """ELOOP of what was named is an answer, and no file that went meanwhile."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert [each.errno for each in found(tmp_path / "a")[1].unread] == [errno.ELOOP]


def test_a_directory_that_went_meanwhile_is_counted(tmp_path, monkeypatch):
    """Trees live: what is removed between its name and its turn is no failure."""
    kept = make(tmp_path / "kept" / "a")
    make(tmp_path / "gone" / "a")
    open_file = os.open

    def late(path, *rest, **options):
        if str(path).endswith("/gone"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return open_file(path, *rest, **options)

    monkeypatch.setattr(os, "open", late)
    files, passed = found(tmp_path)
    assert (files, passed.vanished, passed.unread) == ([kept], 1, [])


def test_a_directory_that_refuses_is_told_and_the_others_are_walked(tmp_path, monkeypatch):
    """As below another user's home; root is refused nothing, so that the refusal is put on."""
    kept = make(tmp_path / "kept" / "a")
    make(tmp_path / "closed" / "a")
    open_file = os.open

    def closed(path, *rest, **options):
        if str(path).endswith("/closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return open_file(path, *rest, **options)

    monkeypatch.setattr(os, "open", closed)
    files, passed = found(tmp_path)
    assert files == [kept]
    assert [(each.path, each.why) for each in passed.unread] == [
        (f"{tmp_path}/closed", "may not be opened (EACCES)"),
    ]


def test_file_systems_that_have_no_pages_are_left_alone():
    """Some of what lies in them does things when it is merely opened."""
    files, passed = found("/proc/self")
    assert files == []
    assert [(each.path, each.why.split(",")[0]) for each in passed.other] == [("/proc/self", "proc")]


@pytest.mark.parametrize("one_file_system", [False, True])
def test_another_file_system_is_descended_into_unless_that_is_not_wanted(tmp_path, monkeypatch, one_file_system):
    """The device of a directory tells; a mount is put on, since it takes root to make one."""
    make(tmp_path / "mounted" / "a")
    kept = make(tmp_path / "b")
    status = os.fstat

    class Elsewhere:
        st_dev = -1

    def mounted(fd):
        return Elsewhere if os.readlink(f"/proc/self/fd/{fd}").endswith("/mounted") else status(fd)

    monkeypatch.setattr(file_tree.os, "fstat", mounted)
    files, passed = found(tmp_path, one_file_system=one_file_system)
    assert (kept in files, len(files)) == (True, 1 if one_file_system else 2)
    assert [each.path for each in passed.other] == ([f"{tmp_path}/mounted"] if one_file_system else [])


def test_nothing_stays_open(tmp_path):
    """A tree has more directories than a process may have files."""
    for nth in range(20):
        make(tmp_path / str(nth) / "deep" / "a")
    before = os.listdir("/proc/self/fd")
    found(tmp_path)
    walking = walk([str(tmp_path)], Passed())
    next(walking)
    walking.close()
    assert os.listdir("/proc/self/fd") == before
