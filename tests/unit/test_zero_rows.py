"""Which pages are all zero, however little of them is not."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dontneed.observe.zero_pages import zero_rows
from dontneed.reasons import zero_pages
from dontneed.reasons.survey import Limits
from dontneed.units import HUGE_PAGE_BYTES, MIB

WORDS = 512

bounded = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@bounded
@given(
    st.integers(0, 600),
    st.lists(st.tuples(st.integers(0, 599), st.integers(0, WORDS - 1), st.integers(0, 63)), max_size=300),
)
def test_a_single_bit_anywhere_is_seen(pages, bits):
    """In a word that is sampled, or in one that is not; among zero pages or among others."""
    words = np.zeros((pages, WORDS), np.uint64)
    expected = np.ones(pages, bool)
    for page, word, bit in bits:
        if page < pages:
            words[page, word] |= np.uint64(1 << bit)
            expected[page] = False
    assert zero_rows(words).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("pause", "slice_bytes"),
    [(None, 64 * MIB), (0.0, HUGE_PAGE_BYTES), (0.001, HUGE_PAGE_BYTES), (0.010, 16 * MIB), (1.0, 64 * MIB)],
)
def test_a_shorter_pause_makes_smaller_slices(pause, slice_bytes):
    """Of whole huge pages, and never so small that it would take for ever."""
    assert zero_pages._slice_bytes(Limits(pause)) == slice_bytes


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["/var/log/syslog", "socket:[1]", "/dev/null"], ""),
        (["/dev/kvm"], "it holds /dev/kvm"),
        (["/dev/vhost-net", "pipe:[7]"], "it holds /dev/vhost-net"),
        (["/dev/nvidia-uvm", "/dev/nvidia0"], "it holds /dev/nvidia-uvm"),
    ],
)
def test_who_lets_a_device_write_into_its_memory_is_refused(files, said):
    """A device does not stand still when the threads do."""
    process = SimpleNamespace(links=lambda _name: {str(fd): target for fd, target in enumerate(files)})
    assert zero_pages._other_writer(process).startswith(said)
    assert bool(zero_pages._other_writer(process)) == bool(said)
