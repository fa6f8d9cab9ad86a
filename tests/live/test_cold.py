"""`cold`: memory that nothing touches goes to swap, and comes back whole; without swap it is refused."""

from __future__ import annotations

import numpy as np
import pytest

from dontneed import TargetRefused
from dontneed.kernel.environment import parse_swaps
from dontneed.kernel.settings import held_lock, read_setting
from dontneed.kernel.swap import swap_space
from dontneed.reasons import cold
from dontneed.reasons.survey import Limits

from .native_target import PAGE, PRESENT, SWAPPED, entries_of, subject_of

MIB = 1 << 20
SIZE = 8 * MIB

TWO_MAPPINGS = f"""
import ctypes, hashlib, mmap, threading, time
idle, used = (mmap.mmap(-1, {SIZE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(2))
used.madvise(mmap.MADV_DONTDUMP)  # or both would be one mapping
for memory in idle, used:
    memory.write(bytes(range(256)) * ({SIZE} // 256))
before = hashlib.sha256(idle).digest()
def use():
    while True:
        used[{PAGE} * 100] += 0
        time.sleep(0.01)
threading.Thread(target=use, daemon=True).start()
for memory in idle, used:
    print(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
pause()
print(hashlib.sha256(idle).digest() == before)
"""


@pytest.mark.needs_root
@pytest.mark.needs_kernel("5.10")
def test_idle_mappings_go_to_swap_and_come_back_whole(child, monkeypatch):
    """And a mapping with one page in use stays, all of it."""
    monkeypatch.setattr(cold, "_WATCH_SECONDS", 0.5)
    target = child(TWO_MAPPINGS)
    idle, used = map(int, target.said)
    with swap_space(), subject_of(target.pid) as subject:
        found = cold.survey(subject)
        released = cold.release(subject, found, Limits())
        entries = {start: entries_of(target.pid, start, start + SIZE) for start in (idle, used)}
        assert target.proceed() == ["True"]
    assert found.releasable_bytes >= 2 * SIZE
    assert "bear marks of use" in found.refused[0]
    assert released.spans.contains(idle)
    assert not released.spans.contains(used + 100 * PAGE)
    assert np.count_nonzero(entries[idle] & np.uint64(SWAPPED)) >= 0.95 * SIZE / PAGE
    assert np.count_nonzero(entries[used] & np.uint64(PRESENT)) == SIZE / PAGE
    assert "touched while they were watched" in released.notes[0]


def test_without_swap_it_is_refused(child):
    """Anonymous memory has nowhere to go; the hint says how to make room."""
    target = child()
    with held_lock("/proc/swaps"):  # nobody makes any meanwhile
        if parse_swaps(read_setting("/proc/swaps"))[0]:
            pytest.skip("needs a machine without swap")
        with subject_of(target.pid) as subject, pytest.raises(TargetRefused, match="no swap") as refused:
            cold.survey(subject)
    assert "zram" in refused.value.hint
