"""`advise` and `posix_madvise`: every advice on this process, the few that another takes, and what a refusal leaves."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from dontneed import (
    Advice,
    AdviceRefused,
    BufferRefused,
    NotPermitted,
    PosixAdvice,
    ProcessGone,
    Span,
    Spans,
    UsageError,
    WrongType,
    advise,
    look,
    posix_madvise,
)
from dontneed.abi.syscalls import PROCESS_MADVISE
from dontneed.kernel import libc, mappings

from .conftest import MIB, PAGE, PRIVATE, address_of, buffer_at, fill, raw, small_pages, without_whole_pages

GIB = 1 << 30
DESTRUCTIVE = [advice for advice in Advice.all() if advice.destructive]
POISON = ("HWPOISON", "SOFT_OFFLINE")


@contextmanager
def pages(count, **options):
    """Anonymous pages, filled, and their span: page by page when it is asked for."""
    start = mappings.map_memory(count * PAGE, **options)
    span = Span(start, start + count * PAGE)
    buffer = buffer_at(start, span.size_bytes)
    advise(span, Advice.NOHUGEPAGE)
    fill(buffer)
    yield span, raw(buffer).reshape(count, PAGE)
    mappings.unmap_memory(start, span.size_bytes)


def nth_pages(span, *numbers):
    """The set of these pages of a span."""
    return Spans((span.start + nth * PAGE, span.start + (nth + 1) * PAGE) for nth in numbers)


@pytest.fixture(params=["process_madvise", "madvise"])
def calls(request, monkeypatch):
    """The system calls by which many spans are advised, in both ways; counted."""
    if request.param == "madvise":
        monkeypatch.setattr("dontneed.kernel.madvise._own_target", lambda *_asked: None)
    counted = {"process_madvise": 0, "madvise": 0}
    real_syscall, real_madvise = libc.syscall, libc.madvise

    def syscall(number, *arguments):
        assert number == PROCESS_MADVISE
        counted["process_madvise"] += arguments[2] > 0 and bool(arguments[1] != 0)
        return real_syscall(number, *arguments)

    def madvise(*arguments):
        counted["madvise"] += 1
        return real_madvise(*arguments)

    monkeypatch.setattr(libc, "syscall", syscall)
    monkeypatch.setattr(libc, "madvise", madvise)
    return counted
