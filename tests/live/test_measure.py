"""`measure`: what a block did to the memory of this process, or of another."""

from __future__ import annotations

import mmap
import subprocess

import pytest

from dontneed import ProcessGone, UsageError, discard, look, measure

from .conftest import MIB, PAGE, PRIVATE, map_path, raw, small_pages

NOISE = 2 * MIB
"""What looking itself, and the interpreter, may take or give back meanwhile."""


@pytest.fixture(autouse=True, scope="module")
def first_look():
    """What looking loads for the first time is in no measurement of these tests."""
    with measure() as measured:
        pass
    assert measured.difference.counters.threads == 0


def about(count):
    """As many bytes, but for the noise."""
    return pytest.approx(count, abs=NOISE)


def touch(memory):
    """Write to every page, and to nothing else."""
    raw(memory)[::PAGE] = 1


def test_memory_that_a_block_touches_is_measured_by_kind(tmp_path):
    """Anonymous memory, shared memory and a file are three counters, and RSS is their sum."""
    path = tmp_path / "file"
    path.write_bytes(b"F" * 4 * MIB)
    private, shared, file = small_pages(16 * MIB), mmap.mmap(-1, 8 * MIB), map_path(path)
    with measure() as measured:
        touch(private)
        touch(shared)
        assert raw(file)[::PAGE].all()
    assert measured.rss_anon_bytes == about(16 * MIB)
    assert measured.rss_shmem_bytes == about(8 * MIB)
    assert measured.rss_file_bytes == about(4 * MIB)
    assert measured.rss_bytes == measured.rss_anon_bytes + measured.rss_shmem_bytes + measured.rss_file_bytes


def test_every_page_that_is_touched_first_is_a_minor_fault():
    """One fault a page, where pages are small."""
    memory = small_pages(4096 * PAGE)
    with measure() as measured:
        touch(memory)
    assert 4096 <= measured.minor_faults < 4096 + 2048
    with measure() as measured:
        touch(memory)
    assert 0 <= measured.minor_faults < 2048


def test_memory_that_a_block_gives_back_is_negative():
    """After less before."""
    memory = small_pages(16 * MIB)
    touch(memory)
    with measure() as measured:
        discard(memory, evidence="none")
    assert measured.rss_anon_bytes == about(-16 * MIB)


def test_mappings_that_come_and_go_are_listed(tmp_path):
    """The same mapping, in two blocks."""
    path = tmp_path / "file"
    path.write_bytes(b"F" * MIB)
    with measure() as coming:
        memory = map_path(path)
    with measure() as going:
        memory.close()
    for mappings in (coming.come, going.gone):
        assert [(each.name, each.size_bytes) for each in mappings if each.name == str(path)] == [(str(path), MIB)]
    for mappings in (coming.gone, going.come):
        assert str(path) not in [each.name for each in mappings]


def test_blocks_within_blocks_are_measured_each_for_itself():
    """The outer block has what the inner one has, and its own."""
    first, second = small_pages(8 * MIB), small_pages(16 * MIB)
    with measure() as outer:
        touch(first)
        with measure() as inner:
            touch(second)
    assert inner.rss_anon_bytes == about(16 * MIB)
    assert outer.rss_anon_bytes == about(24 * MIB)


def test_what_looking_takes_is_in_no_result(monkeypatch):
    """The counters are read last before the block and first after it."""
    taken = []

    def look_and_take(pid):
        taken.append(small_pages(16 * MIB))
        touch(taken[-1])
        return look(pid)

    monkeypatch.setattr("dontneed.observe.measurement.look", look_and_take)
    with measure() as measured:
        pass
    assert len(taken) == 2
    assert measured.rss_anon_bytes == about(0)


def test_a_measurement_can_be_taken_again():
    """The second block has nothing of the first."""
    memory = small_pages(16 * MIB)
    measured = measure()
    with measured:
        touch(memory)
    with measured:
        pass
    assert measured.rss_anon_bytes == about(0)


def test_an_exception_leaves_the_block_and_what_it_did_is_measured():
    """A block that failed has used memory too."""
    memory = small_pages(16 * MIB)
    measured = measure()

    def fail_in_a_block():
        with measured:
            touch(memory)
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_a_block()
    assert measured.rss_anon_bytes == about(16 * MIB)


@pytest.mark.parametrize("result", ["rss_bytes", "rss_anon_bytes", "minor_faults", "come", "gone", "difference"])
def test_there_is_no_result_before_the_block_has_ended(result):
    """Neither before it nor in it, nor in a second one."""
    measured = measure()
    with pytest.raises(UsageError, match="until its block has ended") as refused:
        getattr(measured, result)
    assert "with dontneed.measure()" in refused.value.hint
    for _ in range(2):
        with measured, pytest.raises(UsageError):
            getattr(measured, result)
        getattr(measured, result)


def test_another_process_is_measured_by_its_pid(child):
    """What it does between two moments at rest."""
    process = child(f"""if True:
        import mmap
        held = mmap.mmap(-1, {16 * MIB}, flags={PRIVATE})
        pause()
        held[:] = b"x" * len(held)
    """)
    with measure(process.pid) as measured:
        process.proceed()
    assert measured.rss_anon_bytes == about(16 * MIB)
    assert measured.minor_faults >= 1


def test_a_process_that_ends_meanwhile_is_gone():
    """There is nothing to compare with."""
    with subprocess.Popen(["sleep", "60"]) as process:
        measured = measure(process.pid).__enter__()
        process.kill()
        process.wait()
        with pytest.raises(ProcessGone):
            measured.__exit__(None, None, None)


def test_a_process_that_cannot_be_is_refused_on_entering():
    """`measure()` itself touches nothing."""
    measured = measure(-1)
    with pytest.raises(UsageError), measured:
        pytest.fail("entered")
