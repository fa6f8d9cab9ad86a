"""`look_all` against /proc/PID/smaps_rollup, the kernel's own count: RSS and USS to the byte, PSS to its kilobyte."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from dontneed.observe.holders.look_all import ROLLUP, STATUS, TABLES, WINDOWS, look_all

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_feature("kernel memory"), pytest.mark.needs_feature("BTF")]

KIB = 1 << 10
MIB = 1 << 20

FAMILY = """if True:
    import mmap, os
    PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    inherited = mmap.mmap(-1, 3 << 20, PRIVATE)
    inherited.madvise(mmap.MADV_NOHUGEPAGE)
    inherited[:] = b"i" * len(inherited)
    huge = mmap.mmap(-1, 8 << 20, PRIVATE)
    huge.madvise(mmap.MADV_HUGEPAGE)
    huge[:] = b"h" * len(huge)
    read_only = mmap.mmap(-1, 8 << 20, PRIVATE)
    read_only.madvise(mmap.MADV_HUGEPAGE)
    sum(read_only[::4096])
    shared = mmap.mmap(-1, 2 << 20)
    shared[:] = b"s" * len(shared)
    fd = os.memfd_create("twice")
    os.ftruncate(fd, 1 << 20)
    once, again = mmap.mmap(fd, 1 << 20), mmap.mmap(fd, 1 << 20)
    once[:] = b"t" * len(once)
    sum(again[::4096])
    asleep, wake = os.pipe()
    done, ready = os.pipe()
    for nth in range(3):
        child = os.fork()
        if not child:
            os.close(wake)
            if nth:
                inherited[: nth << 19] = b"c" * (nth << 19)
                huge[4096 * nth] = 1
            if nth == 2:
                huge.madvise(mmap.MADV_DONTNEED, 0, 3 << 20)
                sum(shared[::4096])
            os.write(ready, b"x")
            os.read(asleep, 1)
            os._exit(0)
        print(child)
        os.read(done, 1)
    os.close(asleep)
"""


@pytest.fixture
def zoo_without_hugetlb(monkeypatch, request):
    """The zoo with all animals but those."""
    source = (Path(__file__).parent / "zoo.py").read_text(encoding="utf-8")
    animals = source.partition("ANIMALS = (")[2].partition(")")[0].replace(",", " ").split()
    monkeypatch.setenv("ZOO_ANIMALS", " ".join(name for name in animals if not name.startswith("hugetlb")))
    return request.getfixturevalue("zoo")


def rollup_of(pid):
    """(RSS, USS, PSS, swap) by the kernel, in bytes; PSS and swap in whole KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    told = {line.partition(":")[0]: int(line.split()[1]) * KIB for line in lines}
    return told["Rss"], told["Private_Clean"] + told["Private_Dirty"], told["Pss"], told["Swap"]


def in_the_same_words(holder):
    """The same of a process as we see it."""
    pss = holder.pss_bytes // KIB * KIB
    return holder.rss_bytes, holder.uss_bytes, pss, holder.swap_bytes


def seen(*pids, method=TABLES):
    """What we see of some processes, by pid."""
    found = {holder.pid: holder for holder in look_all(method).processes}
    assert {found[pid].method for pid in pids} == {method}
    return {pid: in_the_same_words(found[pid]) for pid in pids}


def told(*pids):
    """What the kernel tells of them."""
    return {pid: rollup_of(pid) for pid in pids}


def test_a_process_with_every_kind_of_memory(zoo, agreed):
    """Locked, huge, zero, guarded, secret, device, hugetlb, AIO, perf: what is in RSS there is in it here."""
    agreed(lambda: told(zoo.pid), lambda: seen(zoo.pid))


def test_a_process_with_every_kind_but_hugetlb(zoo_without_hugetlb, agreed):
    """In windows: what is no memory is told by that nobody counts it as mapped."""
    pid = zoo_without_hugetlb.pid
    agreed(lambda: told(pid), lambda: seen(pid, method=WINDOWS))


def test_hugetlb_pages_are_not_for_windows(zoo):
    """The page map does not tell them from others: another way has to be taken."""
    [found] = [holder for holder in look_all(WINDOWS).processes if holder.pid == zoo.pid]
    if found.hugetlb_bytes:
        assert (found.method, found.pss_bytes) == (STATUS, None)


@pytest.mark.parametrize("method", [TABLES, WINDOWS])
def test_a_family_that_shares_and_has_written_to_some_of_it(child, agreed, method):
    """Pages shared by fork, written to by some; huge pages split in some; shared memory; what is mapped twice."""
    parent = child(FAMILY)
    pids = [parent.pid, *map(int, parent.said)]
    assert len(pids) == 4
    ours = agreed(lambda: told(*pids), lambda: seen(*pids, method=method))
    for rss, uss, pss, _ in ours.values():
        assert 0 < uss < pss < rss
    assert max(rss for rss, _, _, _ in ours.values()) > 15 * MIB


@pytest.mark.parametrize("method", [TABLES, WINDOWS])
def test_every_process_that_stands_still(child, method):
    """All of the machine that do, ours and others: those of which the kernel says the same before and after."""
    for _ in range(8):
        child("import mmap; held = mmap.mmap(-1, 1 << 20, 34); held[:] = bytes(len(held))")

    def in_kib(holder):
        return holder.replace(method="", pss_bytes=holder.pss_bytes // KIB)

    def kernels_and_ours():
        before, ours, after = look_all(ROLLUP), look_all(method), look_all(ROLLUP)
        later = {holder.pid: holder for holder in after.processes}
        still = {
            holder.pid: holder
            for holder in before.processes
            if holder == later.get(holder.pid) and holder.method == ROLLUP
        }
        return [(still[each.pid], each) for each in ours.processes if each.pid in still and each.method == method]

    for _ in range(20):
        pairs = kernels_and_ours()
        different = [(one, other) for one, other in pairs if in_kib(one) != in_kib(other)]
        if len(pairs) >= 8 and not different:
            return
    assert (len(pairs) >= 8, different) == (True, [])


@pytest.mark.usefixtures("swap_space")
@pytest.mark.parametrize("method", [TABLES, WINDOWS])
def test_what_is_in_swap(child, agreed, method):
    """Anonymous pages that were pushed out."""
    holder = child("""if True:
        import mmap, os
        memory = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory[:] = os.urandom(len(memory))
        memory.madvise(21, 0, 3 << 20)
    """)
    ours = agreed(lambda: told(holder.pid), lambda: seen(holder.pid, method=method))
    assert ours[holder.pid][3] > MIB


@pytest.mark.usefixtures("huge_page_pool")
def test_hugetlb_pages_are_beside_rss(child, agreed):
    """Private and shared ones; and a huge page that is none is RSS."""
    holder = child("""if True:
        import ctypes, mmap
        MAP_HUGETLB = 0x40000
        pools = [mmap.mmap(-1, 2 << 20, kind | mmap.MAP_ANONYMOUS | MAP_HUGETLB) for kind in (1, 2)]
        for pool in pools:
            pool[0] = 1
        huge = mmap.mmap(-1, 8 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        huge.madvise(mmap.MADV_HUGEPAGE)
        huge[:] = b"h" * len(huge)
    """)
    agreed(lambda: told(holder.pid), lambda: seen(holder.pid))
    [found] = [each for each in look_all(TABLES).processes if each.pid == holder.pid]
    assert found.hugetlb_bytes == 4 * MIB
    assert found.rss_bytes > 8 * MIB


@pytest.mark.parametrize("method", [TABLES, WINDOWS])
def test_files_that_many_map(tmp_path, child, agreed, method):
    """Some pages by one, some by all, in large folios or not: each frame's own count."""
    path = tmp_path / "file"
    path.write_bytes(b"f" * (4 * MIB))
    with path.open("r+b") as file:
        mmap.mmap(file.fileno(), 0)[:] = b"g" * (4 * MIB)
    holders = [
        child(f"""if True:
            import mmap
            file = open({str(path)!r}, "r+b")
            held = mmap.mmap(file.fileno(), 0)
            held.madvise(mmap.MADV_RANDOM)
            sum(held[: {1 + nth} << 19 : 4096])
        """).pid
        for nth in range(5)
    ]
    agreed(lambda: told(*holders), lambda: seen(*holders, method=method))
