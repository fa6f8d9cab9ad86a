"""`look` against psutil, which reads the same files its own way."""

from __future__ import annotations

import psutil

from dontneed.observe.address_space import look

COLUMNS = {
    "rss": "rss_bytes",
    "private_clean": "private_clean_bytes",
    "private_dirty": "private_dirty_bytes",
    "shared_clean": "shared_clean_bytes",
    "shared_dirty": "shared_dirty_bytes",
    "pss": "pss_bytes",
    "referenced": "referenced_bytes",
    "anonymous": "anonymous_bytes",
    "swap": "swap_bytes",
}
"""Columns of memory_maps() and what we call them."""

NO_NAME = "[anon]"


def test_every_mapping_of_psutil_is_one_of_ours(zoo, at_one_moment) -> None:
    """The same rows in the same order, with the same permissions and virtual size."""
    told, seen = at_one_moment(
        lambda: [(row.addr, row.perms, row.size) for row in psutil.Process(zoo.pid).memory_maps(grouped=False)],
        lambda: look(zoo.pid),
    )
    ours = [(f"{each.start:08x}-{each.end:08x}", each.perms, each.size_bytes) for each in seen.mappings]
    assert ours == told


def test_names_are_those_of_psutil(zoo) -> None:
    """But for what psutil does to them: it strips them, and cuts ` (deleted)` off where no such file exists."""
    told = [row.path for row in psutil.Process(zoo.pid).memory_maps(grouped=False)]
    ours = [each.name.strip() or NO_NAME for each in look(zoo.pid).mappings]
    assert [name for name, path in zip(ours, told, strict=True) if path not in (name, name[: -len(" (deleted)")])] == []


def test_the_columns_of_every_animal_are_those_of_psutil(zoo, at_one_moment) -> None:
    """All that psutil tells, for the memory that no other process maps meanwhile."""

    def of_the_zoo() -> list[list[int]]:
        rows = psutil.Process(zoo.pid).memory_maps(grouped=False)
        ours = (row for row in rows if zoo.animal_at(int(row.addr.partition("-")[0], 16)))
        return [[getattr(row, column) for column in COLUMNS] for row in ours]

    told, seen = at_one_moment(of_the_zoo, lambda: look(zoo.pid, smaps=True))
    counted = [each.smaps for each in seen.mappings if zoo.animal_at(each.start)]
    assert [[getattr(each, field) for field in COLUMNS.values()] for each in counted] == told
    assert len(told) > 10


def test_resident_bytes_of_every_mapping_are_those_of_psutil(zoo, at_one_moment) -> None:
    """Python's own memory and its libraries too."""
    told, seen = at_one_moment(
        lambda: [row.rss for row in psutil.Process(zoo.pid).memory_maps(grouped=False)],
        lambda: look(zoo.pid, smaps=True),
    )
    assert [each.rss_bytes for each in seen.mappings] == told


def test_the_counters_are_those_of_psutil(zoo, at_one_moment) -> None:
    """RSS, virtual size, shared memory, threads and the command's name."""
    process = psutil.Process(zoo.pid)

    def counters() -> tuple[int, ...]:
        memory = process.memory_info()
        return memory.rss, memory.vms, memory.shared, process.num_threads()

    told, seen = at_one_moment(counters, lambda: look(zoo.pid))
    ours = seen.counters
    assert told == (
        ours.rss_bytes,
        ours.size_bytes,
        ours.rss_file_bytes + ours.rss_shmem_bytes,
        ours.threads,
    )
    assert seen.command == process.name()
