"""What the live machine changes for everybody, for a while, and that it is as it was whatever happens meanwhile."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dontneed.abi.advice import Advice
from dontneed.errors import DontneedError, KernelLacks
from dontneed.kernel import hugetlb, settings, swap
from dontneed.kernel.environment import read_huge_pages
from dontneed.lab.keeper import kept
from dontneed.lab.live import LiveMachine, LiveProcess
from dontneed.lab.machine import HUGETLB
from dontneed.lab.snapshot import take_snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = 64
HUGE_PAGE = 512
BYTE = ord("Z")
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
KHUGEPAGED = Path("/sys/kernel/mm/transparent_hugepage/khugepaged")

needs_huge_pages = pytest.mark.skipif(read_huge_pages() in (None, "never"), reason="huge pages are switched off here")


def _pool() -> str:
    return POOL.read_text()


def _pace() -> str:
    names = ("max_ptes_none", "scan_sleep_millisecs", "alloc_sleep_millisecs")
    return " ".join((KHUGEPAGED / name).read_text().strip() for name in names)


def _disks() -> str:
    return " ".join(sorted(name for name in os.listdir("/sys/block") if name.startswith("zram")))


_STATES = {
    "swap": ("/proc/swaps", _disks),
    "hugetlb": (str(POOL), _pool),
    "khugepaged": (str(KHUGEPAGED / "scan_sleep_millisecs"), _pace),
}
"""Each change, the file whose lock keeps labs apart that make it, and what it is seen by."""


def _settled(change: str) -> str:
    """What is so while no lab changes it."""
    path, seen = _STATES[change]
    with settings.held_lock(path):
        return seen()


def _swap_is_there() -> bool:
    return len(Path("/proc/swaps").read_text().splitlines()) > 1


@pytest.fixture(autouse=True)
def _everything_is_as_it_was() -> Iterator[None]:
    """No test of these leaves the machine otherwise than it was."""
    known = [change for change, (path, _) in _STATES.items() if Path(path).exists()]
    before = [_settled(change) for change in known]
    yield
    assert [_settled(change) for change in known] == before


@pytest.fixture
def process() -> Iterator[LiveProcess]:
    """A fresh process of the live machine."""
    with LiveMachine().start() as started:
        yield started


# Swap


@pytest.mark.needs_root
def test_pages_go_to_swap_and_their_slots_are_freed_by_dontneed(process):
    """Swap is there for the block; every page that is paged out takes a slot of it, until it is given up."""
    region = process.map("p", PAGES)
    process.write(region, BYTE)
    with process.machine.swap():
        before = process.machine.swap_used_bytes()
        assert process.advise(region, Advice.PAGEOUT) == 0
        held = take_snapshot(process, [region]).held(region)
        assert (held.swapped_pages, held.swap_bytes, held.pages) == (PAGES, region.size_bytes, "S" * PAGES)
        assert process.machine.swap_used_bytes() - before == region.size_bytes
        assert process.advise(region, Advice.DONTNEED) == 0
        assert process.machine.swap_used_bytes() == before


@pytest.mark.needs_root
def test_what_was_swapped_out_is_there_when_the_swap_goes(process):
    """Taking swap away brings the pages in again."""
    region = process.map("p", PAGES)
    process.write(region, BYTE)
    with process.machine.swap():
        process.advise(region, Advice.PAGEOUT)
        assert process.read(region.part("q", 0, 1)).values == (BYTE,)
    assert process.read(region).values == (BYTE,)
    assert take_snapshot(process, [region]).held(region).swapped_pages == 0


@pytest.mark.needs_root
def test_swap_that_is_there_is_used_and_left(process, monkeypatch):
    """Whoever made it may take it away, and we do not."""
    with process.machine.swap():
        disks = _disks()
        monkeypatch.setattr(swap, "_SWAPS", "/proc/self/status")  # another lock: that on /proc/swaps is taken
        monkeypatch.setattr(swap, "_read_swaps", lambda: (1, 0))
        with swap.swap_space():
            assert _disks() == disks
        assert (_swap_is_there(), _disks()) == (True, disks)


@pytest.mark.needs_root
def test_two_who_want_swap_have_it_one_after_the_other(process):
    """The second waits for the first to be done: no swap is taken from under anyone."""
    with process.machine.swap():
        other = subprocess.Popen([sys.executable, "-c", _HOLDING.format(change="swap", numbers="")], **_PIPES)
        assert select.select([other.stdout], [], [], 1) == ([], [], [])
    with other:
        assert other.stdout.readline() == b"ready\n"
        other.stdin.close()
    assert other.returncode == 0


def test_a_user_without_rights_is_told_how_to_have_swap(as_nobody):
    """Not permitted, rather than absent; and the way out by hand."""
    if _swap_is_there():
        pytest.skip("there is swap here, which anyone may use")
    code = "from dontneed.lab.live import LiveMachine\nwith LiveMachine().swap(): pass"
    done = as_nobody(code)
    assert done.returncode == 1
    assert "NotPermitted" in done.stderr or "KernelLacks" in done.stderr
    assert "no swap space" in done.stderr


def test_a_kernel_without_zram_lacks_swap(monkeypatch):
    """With what to load."""
    monkeypatch.setattr(swap, "_HOT_ADD", "/sys/class/nothing-of-the-kind/hot_add")
    monkeypatch.setattr(swap, "_read_swaps", lambda: (0, 0))
    with pytest.raises(KernelLacks) as refused, swap.swap_space():
        pass
    assert "modprobe zram" in refused.value.hint


# Huge pages


@pytest.mark.needs_root
def test_the_pool_is_larger_for_a_block_and_pages_in_use_do_not_hinder_its_end(process):
    """They are surplus then, and go when they are unmapped."""
    with process.machine.hugetlb_pool(2):
        assert hugetlb.count_free_pages() >= 2
        region = process.map("p", 2 * HUGE_PAGE, kind=HUGETLB)
        process.write(region, BYTE)
    assert process.read(region).values == (BYTE,)
    assert process.unmap(region) == 0


@pytest.mark.needs_root
def test_a_pool_that_cannot_be_had_is_lacking_and_leaves_the_old_one():
    """No machine has so many; and what would starve everyone else is not even tried."""
    with (
        pytest.raises(KernelLacks, match="more huge pages of 2 MiB are more than half"),
        LiveMachine().hugetlb_pool(hugetlb.count_free_pages() + (1 << 30)),
    ):
        pass


@pytest.mark.needs_root
def test_a_pool_that_stays_too_small_is_lacking_and_has_its_old_size(monkeypatch):
    """The kernel found fewer pages in one piece than it was asked for."""
    monkeypatch.setattr(hugetlb, "count_free_pages", lambda: 1)
    with pytest.raises(KernelLacks, match="only 1 of 2 huge pages"), hugetlb.enlarged_pool(2):
        pass


@pytest.mark.needs_root
@needs_huge_pages
def test_khugepaged_takes_back_what_was_half_released(process):
    """All but one page of a huge one were given up; khugepaged fills it up again, and its pace is as it was."""
    region = process.map("p", HUGE_PAGE, huge=True)
    process.write(region, BYTE)
    process.advise(region, Advice.NOHUGEPAGE)
    process.advise(region.part("q", 1, HUGE_PAGE - 1), Advice.DONTNEED)
    assert take_snapshot(process, [region]).held(region).huge_bytes == 0
    process.advise(region, Advice.HUGEPAGE)
    assert process.machine.wait_for_khugepaged(process, region)
    assert take_snapshot(process, [region]).held(region).huge_bytes == region.size_bytes
    assert process.read(region).values == (0, BYTE)


@pytest.mark.needs_root
@needs_huge_pages
def test_khugepaged_is_not_waited_for_for_ever(process, monkeypatch):
    """Where it has been told to keep away it does not come, and that is an answer."""
    monkeypatch.setattr("dontneed.lab.live._KHUGEPAGED_SECONDS", 0.1)
    region = process.map("p", HUGE_PAGE)
    process.write(region, BYTE)
    assert not process.machine.wait_for_khugepaged(process, region)


# Whatever happens

_HOLDING = """if True:
    import sys
    from dontneed.lab.keeper import kept
    with kept("{change}", {numbers}):
        print("ready", flush=True)
        sys.stdin.read()
"""
_PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}


def _number_for(change: str) -> tuple[int, ...]:
    """What a change takes: a pool larger than that of now."""
    return (hugetlb.count_free_pages() + 2,) if change == "hugetlb" else ()


@pytest.fixture(params=_STATES)
def change(request: pytest.FixtureRequest) -> str:
    """A change that this machine needs a keeper for."""
    if request.param == "swap" and _swap_is_there():
        pytest.skip("there is swap here, so nobody makes any")
    return request.param


@pytest.mark.needs_root
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_everything_is_put_back_however_the_lab_ends(change, end):
    """The keeper outlives it, for as long as that takes; a signal to its whole group does not reach the keeper."""
    before = _settled(change)
    program = _HOLDING.format(change=change, numbers=", ".join(map(str, _number_for(change))))
    holding = subprocess.Popen([sys.executable, "-c", program], **_PIPES, start_new_session=True)
    with holding:
        assert holding.stdout.readline() == b"ready\n"
        assert _STATES[change][1]() != before
        os.killpg(holding.pid, end)
    assert _settled(change) == before


@pytest.mark.needs_root
def test_everything_is_put_back_when_an_experiment_fails(change):
    """The failure comes through."""
    before = _settled(change)
    with suppress(ZeroDivisionError), kept(change, *_number_for(change)):
        assert _STATES[change][1]() != before
        1 // 0  # noqa: B018
    assert _settled(change) == before


def test_a_keeper_that_breaks_is_an_error_with_its_last_words():
    """A change that there is not, here; a kernel that says no to a known one, elsewhere."""
    with pytest.raises(DontneedError, match="for a while: KeyError: 'weather'"), kept("weather"):
        pass


def test_a_change_that_cannot_be_undone_is_an_error(tmp_path):
    """Somebody else put the setting away meanwhile."""
    setting = tmp_path / "setting"
    setting.write_text("1\n")

    def undo() -> None:
        with settings.changed_settings({str(setting): 2}):
            assert setting.read_text() == "2"
            setting.unlink()

    with pytest.raises(KernelLacks, match=r"there is no .*setting"):
        undo()


# Settings


def test_a_setting_is_changed_for_a_block(tmp_path):
    """And is as it was, after a failure too."""
    setting = tmp_path / "setting"
    setting.write_text("511\n")
    with suppress(ZeroDivisionError), settings.changed_settings({str(setting): 0}):
        assert settings.read_setting(str(setting)) == "0"
        1 // 0  # noqa: B018
    assert settings.read_setting(str(setting)) == "511"


def test_a_later_setting_that_is_refused_puts_back_the_earlier_ones(tmp_path):
    """Nothing is half changed."""
    setting = tmp_path / "setting"
    setting.write_text("1\n")
    with pytest.raises(KernelLacks), settings.changed_settings({str(setting): 2, str(tmp_path / "nothing"): 3}):
        pass
    assert settings.read_setting(str(setting)) == "1"


def test_a_setting_that_is_closed_to_this_user_is_not_permitted(as_nobody):
    """With what to try."""
    done = as_nobody("from dontneed.kernel.settings import write_setting; write_setting('/proc/sys/vm/swappiness', 60)")
    assert "NotPermitted: not permitted to change /proc/sys/vm/swappiness" in done.stderr


def test_a_lock_that_another_holds_is_given_up_on(tmp_path, monkeypatch):
    """After a while: somebody is stuck."""
    monkeypatch.setattr(settings, "_PATIENCE_SECONDS", 0.1)
    setting = tmp_path / "setting"
    setting.write_text("1\n")
    with (
        settings.held_lock(str(setting)),
        pytest.raises(DontneedError, match="for a minute"),
        settings.held_lock(str(setting)),
    ):
        pass
    with settings.held_lock(str(setting)):
        assert setting.read_text() == "1\n"


def test_frames_are_hidden_from_who_is_nobody(as_nobody):
    """An experiment that asks for them is skipped."""
    done = as_nobody("from dontneed.lab.live import LiveMachine; LiveMachine().frame_flags([1])")
    assert "NotPermitted" in done.stderr
