"""Page tables that are read without a lock: every entry is given once, and what moved is looked for again or told."""

from __future__ import annotations

import pytest

from dontneed.abi.page_entry import FRAME_SHIFT, HUGE
from dontneed.errors import ProcessGone, UsageError
from dontneed.observe.tables.branches import BranchReader, UpperTable, leads_to_table
from dontneed.observe.tables.page_tables import TargetRefused, read_walk
from dontneed.observe.tables.reader import TableReader

from .table_world import BASE, PAGE, TABLE, WRITTEN, TableWorld

MIB2 = 2 << 20
START = 0x7F00_0000_0000


def read_together(world, tasks):
    """All entries that a `TableReader` gives, by owner and address; who has gone, and what did not come to rest."""
    found = {}
    reader = TableReader(world, tasks)
    for tables in reader:
        rows, columns = tables.entries.nonzero()
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            key = int(tables.owners[row]), int(tables.addresses[row]) + column * tables.page_bytes
            assert key not in found
            found[key] = int(tables.entries[row, column])
    return found, reader.gone, reader.unsettled


def read_by_branches(world, tasks):
    """The same of a `BranchReader` for each."""
    found, gone, unsettled = {}, set(), []
    for owner, task in enumerate(tasks):
        reader = BranchReader(world, task)
        for branch in reader:
            for address, entry in entries_of(branch):
                assert (owner, address) not in found
                found[owner, address] = entry
        if reader.gone:
            gone.add(owner)
        unsettled += [(owner, start, end) for start, end in reader.unsettled]
    return found, gone, unsettled


def entries_of(branch):
    """Address and bits of every entry that is not empty."""
    if isinstance(branch, UpperTable):
        entries = memoryview(branch.page).cast("Q").tolist()
        places = [branch.address + nth * branch.entry_bytes for nth in range(512)]
        pairs = zip(places, entries, strict=True)
        return [(address, entry) for address, entry in pairs if entry and not leads_to_table(entry)]
    entries = branch.pages.cast("Q").tolist()
    places = [address + nth * PAGE for address in branch.addresses for nth in range(512)]
    return [(address, entry) for address, entry in zip(places, entries, strict=True) if entry]


@pytest.fixture(params=[read_together, read_by_branches])
def given(request):
    """How the tables are read."""
    return request.param


@pytest.mark.parametrize("levels", [4, 5])
def test_every_entry_is_given_once(given, levels):
    """Small pages and huge ones, far apart, of two processes."""
    world = TableWorld(levels)
    tasks = [world.process(1), world.process(2)]
    top = 1 << 12 + 9 * levels - 1
    expected = {}
    for owner, task in enumerate(tasks):
        for address in (0x1000, 0x40_0000, START, START + PAGE, START + 5 * MIB2, top - PAGE):
            expected[owner, address] = world.map(task, address)
        expected[owner, START + 8 * MIB2] = world.map(task, START + 8 * MIB2, level=1)
        expected[owner, 4 << 30] = world.map(task, 4 << 30, level=2)
    found, gone, unsettled = given(world, tasks)
    assert found == expected
    assert (gone, unsettled) == (set(), [])


def test_the_half_of_the_kernel_is_left_out(given):
    """The uppermost table leads there too, in the entries from 256 on."""
    world = TableWorld()
    task = world.process()
    world.map(task, START)
    world.frames[(task.root - BASE) // PAGE][300] = TABLE | world.new_frame() << FRAME_SHIFT
    assert len(given(world, [task])[0]) == 1


def test_many_tables_take_calls_of_at_most_1024_pages(given):
    """So many fit into the array that the kernel writes them to, with what is read to check them."""
    world = TableWorld()
    task = world.process()
    for nth in range(2100):
        world.map(task, START + nth * MIB2)
    found, _, _ = given(world, [task])
    assert len(found) == 2100
    assert world.largest <= 1024


def test_tables_far_apart_leave_room_for_those_above_them(given):
    """In the worst case each has a table of every level to itself."""
    world = TableWorld()
    task = world.process()
    for nth in range(600):
        world.map(task, nth << 30)
    assert len(given(world, [task])[0]) == 600
    assert world.largest <= 1024


def test_a_table_that_moved_meanwhile_is_read_where_it_is_now(given):
    """Its old frame holds something else by then, which must not be taken for entries."""
    world = TableWorld()
    task = world.process()
    old = world.map(task, START)
    kept = world.map(task, START + MIB2)
    new = WRITTEN | 0x77 << FRAME_SHIFT

    def move(number):
        if number == 4:  # the last-level tables come last
            world.table_of(task, START)[:] = 0xDEAD_BEEF_0000_0001
            world.table_of(task, START, level=1)[START >> 21 & 511] = 0
            world.map(task, START, new)

    world.before = move
    found, _, unsettled = given(world, [task])
    assert old != new
    assert found == {(0, START): new, (0, START + MIB2): kept}
    assert unsettled == []


def test_a_table_that_became_a_huge_page_is_given_as_one(given):
    """As khugepaged does it, at any moment."""
    world = TableWorld()
    task = world.process()
    world.map(task, START)
    huge = WRITTEN | HUGE | 0x200 << FRAME_SHIFT
    world.before = lambda number: number == 4 and world.map(task, START, huge, level=1)
    assert given(world, [task])[0] == {(0, START): huge}


def test_an_upper_table_that_is_gone_takes_nothing_else_with_it(given):
    """What it served is not there any more; its neighbours are."""
    world = TableWorld()
    task = world.process()
    world.map(task, START)
    kept = world.map(task, START + (1 << 30))

    def unmap(number):
        if number == 3:
            world.table_of(task, START, level=2)[START >> 30 & 511] = 0

    world.before = unmap
    assert given(world, [task])[0] == {(0, START + (1 << 30)): kept}


def test_what_never_comes_to_rest_is_told_and_not_guessed(given):
    """A table that is somewhere else each time it is read."""
    world = TableWorld()
    task = world.process()
    world.map(task, START)
    kept = world.map(task, START + MIB2)

    def move(_number):
        world.table_of(task, START, level=1)[START >> 21 & 511] = 0
        world.map(task, START)

    world.before = move
    found, _, unsettled = given(world, [task])
    assert found == {(0, START + MIB2): kept}
    assert unsettled == [(0, START, START + MIB2)]


def test_a_process_that_ends_is_told_and_the_others_are_read(given):
    """Its tables are somebody else's memory the next moment."""
    world = TableWorld()
    tasks = [world.process(1), world.process(2)]
    world.map(tasks[0], START)
    kept = world.map(tasks[1], START)
    world.before = lambda number: number == 4 and world.end(tasks[0])
    found, gone, _ = given(world, tasks)
    assert found == {(1, START): kept}
    assert gone == {0}


def test_accessed_and_dirty_may_change_under_the_reader(given):
    """The processor sets them at any time: a table is in its place all the same."""
    world = TableWorld()
    task = world.process()
    world.map(task, START)

    def age(_number):
        world.table_of(task, START, level=1)[START >> 21 & 511] ^= 0x60

    world.before = age
    found, _, unsettled = given(world, [task])
    assert len(found) == 1
    assert unsettled == []


# One walk


@pytest.mark.parametrize("levels", [4, 5])
def test_a_walk_goes_down_to_the_page(levels):
    """Each level by its name, and its own nine bits of the address."""
    world = TableWorld(levels)
    task = world.process()
    address = (0x55 << 48 if levels == 5 else 0) | 3 << 39 | 4 << 30 | 5 << 21 | 6 << 12
    entry = world.map(task, address)
    walk = read_walk(task, address + 123, world, task)
    names = ["PGD", "P4D", "PUD", "PMD", "PTE"] if levels == 5 else ["PGD", "PUD", "PMD", "PTE"]
    assert [each.table for each in walk.entries] == names
    assert [each.index for each in walk.entries][-4:] == [3, 4, 5, 6]
    assert walk.raw[-1] == entry
    assert walk.frame == entry >> FRAME_SHIFT & (1 << 40) - 1
    assert walk.levels == levels


def test_a_walk_ends_at_a_huge_page_and_says_which_frame_of_it():
    """The entry has the first frame; the page's own is so many further on."""
    world = TableWorld()
    task = world.process()
    world.map(task, START, WRITTEN | HUGE | 0x400 << FRAME_SHIFT, level=1)
    walk = read_walk(task, START + 17 * PAGE, world, task)
    assert [each.table for each in walk.entries] == ["PGD", "PUD", "PMD"]
    assert walk.frame == 0x400 + 17


def test_a_walk_ends_where_there_is_no_table():
    """Nothing was ever touched there."""
    world = TableWorld()
    task = world.process()
    walk = read_walk(task, START, world, task)
    assert (walk.raw, walk.frame) == ((0,), None)


def test_a_walk_that_met_a_moving_table_is_made_again():
    """The second one finds it where it is now."""
    world = TableWorld()
    task = world.process()
    world.map(task, START)
    new = WRITTEN | 0x99 << FRAME_SHIFT

    def move(number):
        if number == 4:
            world.table_of(task, START, level=1)[START >> 21 & 511] = 0
            world.map(task, START, new)

    world.before = move
    assert read_walk(task, START, world, task).raw[-1] == new


def test_a_walk_that_never_agrees_is_refused():
    """Better no answer than that of two moments."""
    world = TableWorld()
    task = world.process()
    world.map(task, START)

    def move(_number):
        world.table_of(task, START, level=1)[START >> 21 & 511] = 0
        world.map(task, START)

    world.before = move
    with pytest.raises(TargetRefused, match="each time"):
        read_walk(task, START, world, task)


def test_a_walk_of_a_process_that_ends_says_so():
    """Its tables were given back, and what was read may be anything."""
    world = TableWorld()
    task = world.process()
    world.map(task, START)
    world.before = lambda number: number == 5 and world.end(task)
    with pytest.raises(ProcessGone, match="ended or replaced"):
        read_walk(task, START, world, task)


@pytest.mark.parametrize("address", [-1, 1 << 47, 0xFFFF_FFFF_FF60_0000])
def test_addresses_of_the_kernel_are_no_addresses_to_walk_to(address):
    """The other half of the uppermost table is not the process's."""
    world = TableWorld()
    task = world.process()
    with pytest.raises(UsageError):
        read_walk(task, address, world, task)
