"""What `cold` takes for idle, from the texts of smaps and swaps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dontneed import Spans, TargetRefused
from dontneed.kernel.smaps import parse_smaps
from dontneed.reasons import cold


def mapping(start, name, *, perms="rw-p", anonymous=8, referenced=0, flags="rd wr mr mw me ac"):
    return (
        f"{start:08x}-{start + 0x2000:08x} {perms} 00000000 00:00 0 {name}\n"
        f"Rss: 8 kB\nReferenced: {referenced} kB\nAnonymous: {anonymous} kB\nVmFlags: {flags}\n"
    )


@pytest.fixture
def marks(monkeypatch):
    def read(*mappings, protected=()):
        monkeypatch.setattr(cold, "read_smaps", lambda _process: parse_smaps("".join(mappings).encode()))
        return cold._read_marks(SimpleNamespace(process=None, protected=SimpleNamespace(spans=Spans(protected))))

    return read


def test_one_touched_page_marks_its_mapping(marks):
    """That is all that smaps says; it errs on the side of what is in use."""
    found = marks(mapping(0x10000, ""), mapping(0x20000, "[heap]", referenced=4))
    assert found.untouched == Spans([(0x10000, 0x12000)])
    assert found.touched == Spans([(0x20000, 0x22000)])


def test_what_is_no_plain_private_memory_is_neither(marks):
    """Files, stacks, shared, locked, device and protected memory; and what holds nothing anonymous."""
    found = marks(
        mapping(0x10000, "/lib/a.so"),
        mapping(0x20000, "[stack]"),
        mapping(0x30000, "/dev/zero (deleted)", perms="rw-s"),
        mapping(0x40000, "", flags="rd wr lo"),
        mapping(0x50000, "", flags="rd wr io pf"),
        mapping(0x60000, "", anonymous=0),
        mapping(0x70000, ""),
        protected=[(0x70000, 0x72000)],
    )
    assert not found.touched
    assert not found.untouched


@pytest.mark.parametrize(
    "text", ["Filename\tType\tSize\tUsed\tPriority", "Filename\n/dev/zram0 partition 1024 1024 -2"]
)
def test_no_swap_and_full_swap_refuse(monkeypatch, text):
    """There is nowhere to go."""
    monkeypatch.setattr(cold, "read_setting", lambda _path: text)
    with pytest.raises(TargetRefused, match="no swap"):
        cold._swap_room()


def test_room_is_what_is_free_of_all_areas(monkeypatch):
    """Together."""
    text = "Filename\tType\tSize\tUsed\n/dev/zram0 partition 1024 24 -2\n/swapfile file 2048 48 -3"
    monkeypatch.setattr(cold, "read_setting", lambda _path: text)
    assert cold._swap_room() == 3000 << 10
