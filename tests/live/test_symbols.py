"""Symbols of the files that a process really runs, which may not be those that are on the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.objects import symbols
from dontneed.observe.objects.symbols import find_object, find_objects, resolve
from dontneed.observe.subject import read_subject

FUNCTION = "lgamma_r"


def library(name):
    """Where a library of this process lies."""
    with ProcessDirectory(os.getpid()) as process:
        return next(find_objects(read_subject(process), lambda path: Path(path).name.startswith(name))).path


@pytest.fixture
def loaded(child, tmp_path):
    """A child with a library of its own, and where its function is there."""
    path = tmp_path / "libthing.so"
    shutil.copy(library("libm"), path)
    target = child(
        f"import ctypes\nprint(ctypes.cast(ctypes.CDLL({str(path)!r}).{FUNCTION}, ctypes.c_void_p).value)\npause()"
    )
    return target, path, int(target.said[0])


def address_in(target, path):
    """Of the function, as it is found; None if the library is not."""
    with ProcessDirectory(target.pid) as process:
        subject = read_subject(process)
        mapped = find_object(subject, lambda each: each == str(path))
        return mapped and resolve(subject, mapped, [FUNCTION]).get(FUNCTION)


@pytest.mark.needs_root
def test_a_library_that_is_gone_from_the_disk_is_read_all_the_same(loaded):
    """As after an upgrade, or in a container that was taken down around it."""
    target, path, address = loaded
    path.unlink()
    assert address_in(target, path) == address


@pytest.mark.needs_root
def test_a_library_that_was_upgraded_is_read_as_it_runs(loaded):
    """The new file at the old place has other addresses."""
    target, path, address = loaded
    path.unlink()
    shutil.copy(library("libc.so"), path)
    assert address_in(target, path) == address


def test_without_map_files_the_file_at_the_place_is_believed_only_if_it_is_the_one_in_memory(loaded, monkeypatch):
    """A call to an address of the new library would go anywhere in the old one."""
    target, path, address = loaded
    monkeypatch.setattr(symbols, "_WAYS", ("root{path}",))
    assert address_in(target, path) == address
    path.unlink()
    assert address_in(target, path) is None
    shutil.copy(library("libc.so"), path)
    assert address_in(target, path) is None


def test_a_library_that_is_merely_read_is_not_loaded(child, tmp_path):
    """Only what can be executed has addresses."""
    path = tmp_path / "libthing.so"
    shutil.copy(library("libm"), path)
    target = child(f"import mmap\nfile = open({str(path)!r})\nheld = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)")
    assert address_in(target, path) is None
