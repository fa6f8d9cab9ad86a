"""Address spaces, differences and receipts as lines for people; the whole page of a look is in tests/cli/golden."""

from __future__ import annotations

import pytest

from dontneed.kernel.maps import parse_maps
from dontneed.kernel.status import Counters
from dontneed.observe.address_space import AddressSpace, Drift, Total
from dontneed.observe.difference import Change, Difference
from dontneed.observe.mapping import Mapping, Mappings
from dontneed.observe.residency import Residency
from dontneed.reclaim.receipt import Receipt
from dontneed.report.table import format_table, printable
from dontneed.report.text import SORT_KEYS, format_address_space, format_difference, format_receipt

KIB, MIB = 1 << 10, 1 << 20

AT_REST = Drift(rss_bytes=0, size_bytes=0, unmatched_bytes=0, seconds=0.0021)


def mapping(start: int, size: int, rss: int = 0, **fields: object) -> Mapping:
    """A mapping of private anonymous memory, but for what is said otherwise."""
    plain = {
        "perms": "rw-p",
        "offset": 0,
        "device": "00:00",
        "inode": 0,
        "name": "",
        "kind": "anonymous",
        "swap_bytes": 0,
        "huge_bytes": 0,
        "zero_bytes": 0,
        "hugetlb_bytes": 0,
    }
    return Mapping(start=start, end=start + size, rss_bytes=rss, **{**plain, **fields})


def space(
    drift: Drift = AT_REST, notes: tuple[str, ...] = (), *, known: bool = True, mappings: int = 3
) -> AddressSpace:
    """A process of `mappings` mappings, the first of 1 page, each a page larger than the one before; all resident."""
    lines = [f"{(row + 1) << 20:x}-{((row + 1) << 20) + (row + 1) * 4096:x} rw-p 0 0:0 0" for row in range(mappings)]
    table = parse_maps("\n".join(lines).encode())
    residency = Residency("PAGEMAP_SCAN", mappings)
    residency.rss = [(row + 1) * 4096 for row in range(mappings)]
    residency.huge = residency.zero = None
    rss = sum(residency.rss)
    return AddressSpace(
        pid=7,
        command="cat",
        mappings=Mappings(table, ["anonymous"] * mappings, residency, None),
        total=Total(rss, rss, 0, 0 if known else None, 0 if known else None, 0),
        counters=Counters(rss_bytes=rss),
        drift=drift,
        method="maps + PAGEMAP_SCAN",
        notes=notes,
    )


# An address space


def test_the_first_line_is_the_answer():
    """Whose memory, how much of it is there, and in how many mappings."""
    assert format_address_space(space())[0] == "cat (pid 7): 24.0 KiB resident; 3 mappings of 24.0 KiB"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"swap_bytes": MIB}, "24.0 KiB resident, 1.0 MiB swapped out;"),
        ({"hugetlb_bytes": 2 * MIB}, "24.0 KiB resident, 2.0 MiB in hugetlb pages;"),
        ({"pss_bytes": 9 * KIB, "uss_bytes": 0}, "24.0 KiB resident, 9.0 KiB PSS, 0 its own (USS);"),
    ],
)
def test_the_first_line_says_what_is_elsewhere_too(fields, said):
    """Swap and hugetlb if there is any, PSS and USS if someone asked."""
    looked = space()
    assert said in format_address_space(looked.replace(total=looked.total.replace(**fields)))[0]


def test_the_last_line_says_how_it_was_read():
    """The method, the time, and that the numbers belong together."""
    assert format_address_space(space())[-1] == "read by maps + PAGEMAP_SCAN in 2.1 ms; it did not move meanwhile"


@pytest.mark.parametrize(
    ("drift", "said"),
    [
        (Drift(8192, -4096, 0, 1.0), "meanwhile its RSS moved by +8.0 KiB and its size moved by -4.0 KiB"),
        (Drift(0, 0, 4096, 1.0), "meanwhile 4.0 KiB were found in no mapping"),
    ],
)
def test_a_process_that_moved_is_said_to_have_moved(drift, said):
    """The numbers are of more than one moment then."""
    assert format_address_space(space(drift))[-1].endswith(said)


def test_notes_come_last():
    """What could not be seen, each in a line of its own."""
    assert format_address_space(space(notes=("one", "two")))[-2:] == ["note: one", "note: two"]


def test_what_is_not_shown_is_counted_and_weighed():
    """24 mappings, of which the 20 largest are shown: the other four hold 1 + 2 + 3 + 4 pages."""
    assert "… 4 more mappings hold 40.0 KiB (--top 0 shows all)" in format_address_space(space(mappings=24))
    assert not any("more mappings" in line for line in format_address_space(space(mappings=24), top=0))


@pytest.mark.parametrize(
    ("sort", "first"), [("rss", "300000"), ("size", "300000"), ("swap", "100000"), ("address", "100000")]
)
def test_the_order_is_the_one_that_was_asked_for(sort, first):
    """Amounts largest first; what is alike stays in the order of addresses. The table and the library agree."""
    lines = format_address_space(space(), sort=sort)
    header = next(number for number, line in enumerate(lines) if "ADDRESS" in line)
    assert lines[header + 1].split()[-1] == first
    assert f"{min(space().mappings, key=SORT_KEYS[sort]).start:x}" == first


def test_a_method_that_cannot_tell_shows_no_column():
    """Unknown is not zero: without HUGE and ZERO there is no column for them."""
    text = "\n".join(format_address_space(space(known=False)))
    assert "HUGE" not in text
    assert "ZERO" not in text


# A difference


def test_no_change_is_one_sentence():
    """Nothing in the counters, nothing in the mappings."""
    assert format_difference(Difference((), (), (), Counters())) == ["no mapping came, went or changed"]


def test_a_difference_tells_counters_and_then_mappings_by_the_size_of_their_change():
    """Signed, in the units of their counter; the swap column only where something was swapped."""
    heap = mapping(4096, MIB, 0, kind="heap", name="[heap]")
    difference = Difference(
        gone=(mapping(1 << 20, 8 * KIB, 4 * KIB, name="/tmp/a\x1b"),),
        come=(mapping(1 << 21, 2 * MIB, MIB),),
        changed=(Change(heap, heap.replace(end=heap.end + 8 * KIB, rss_bytes=16 * KIB)),),
        counters=Counters(rss_anon_bytes=MIB, minor_faults=-3),
    )
    assert format_difference(difference) == [
        "rss anon       +1.0 MiB",
        "minor faults   -3",
        "",
        "      RSS      SIZE           KIND       ADDRESS  NAME",
        " +1.0 MiB  +2.0 MiB  come     anonymous  200000",
        "+16.0 KiB  +8.0 KiB  changed  heap       1000     [heap]",
        " -4.0 KiB  -8.0 KiB  gone     anonymous  100000   /tmp/a?",
    ]


def test_a_change_of_swap_alone_is_seen():
    """What went to swap has a column then."""
    before = mapping(4096, MIB, 0)
    changed = (Change(before, before.replace(swap_bytes=MIB)),)
    assert format_difference(Difference((), (), changed, Counters()))[0].split()[:3] == ["RSS", "SIZE", "SWAP"]


# A receipt


def receipt(**fields: object) -> Receipt:
    """Of a buffer of 1 MiB that was freed, but for what is said otherwise."""
    words = ("advised", "freed", "deferred", "shared", "lazy", "cached", "refaulted")
    amounts = {**dict.fromkeys(words, 0), "asked": MIB, "advised": MIB, "freed": MIB}
    plain = {
        "pause_seconds": 0.00012,
        "cost_seconds": 0.0031,
        "evidence": "frames",
        "before": Counters(rss_bytes=9 * MIB),
        "after": Counters(rss_bytes=8 * MIB),
    }
    return Receipt(**{**amounts, **plain, **fields})


def test_a_receipt_reads_from_what_was_asked_to_what_it_cost():
    """Only amounts that are something take a line, but for the three that always matter."""
    assert format_receipt(receipt()) == [
        "asked              1.0 MiB  the buffer",
        "advised            1.0 MiB  its whole pages, accepted by the kernel",
        "freed              1.0 MiB  proven: every frame was looked up afterwards",
        "RSS      9.0 MiB → 8.0 MiB  of the whole process, before and after",
        "paused 120 µs, 3.1 ms with the evidence",
    ]


def test_a_receipt_of_nothing_says_nothing_three_times():
    """Nothing freed is an answer, and not left out."""
    lines = format_receipt(receipt(asked=100, advised=0, freed=0, notes=("no whole page",)))
    assert [line.split()[:2] for line in lines[:3]] == [["asked", "100"], ["advised", "0"], ["freed", "0"]]
    assert lines[-1] == "note: no whole page"


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("deferred", "still held by the kernel: inside a huge page, in a queue, or pinned"),
        ("shared", "still mapped by another process, or elsewhere in this one"),
        ("lazy", "taken when the kernel needs memory"),
        ("cached", "stays in the page cache"),
        ("refaulted", "touched again, or taken back by khugepaged"),
    ],
)
def test_what_did_not_come_back_is_said_with_the_reason(word, meaning):
    """Every word of the receipt has its meaning beside it, when there is any of it."""
    line = next(line for line in format_receipt(receipt(**{word: 4096})) if line.startswith(word))
    assert line.split(None, 3)[1:] == ["4.0", "KiB", meaning]


@pytest.mark.parametrize(
    ("evidence", "proof"), [("frames", "proven"), ("counters", "at most"), ("none", "nobody looked")]
)
def test_how_sure_a_receipt_is_stands_beside_freed(evidence, proof):
    """A bound is never printed as a proof."""
    assert format_receipt(receipt(evidence=evidence))[2].split("MiB  ")[1].startswith(proof)


# Tables


def test_numbers_stand_right_and_words_left():
    """And no line ends in spaces, for a word in the last column is not padded."""
    lines = format_table(("N", "WORD", "M"), [("1", "a", ""), ("200", "abc", "33")], left=(1,))
    assert lines == ["  N  WORD   M", "  1  a", "200  abc   33"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/usr/lib/größer", "/usr/lib/größer"),
        ("a\x1b[31mb\x07", "a?[31mb?"),
        ("a\nb\tc\x7f", "a?b?c?"),
        ("\udcff", "?"),
        ("\u202egnp.exe", "?gnp.exe"),
        ("", ""),
    ],
)
def test_a_name_is_shown_without_what_a_terminal_obeys(name, shown):
    """Control characters, bytes that are no UTF-8, and letters that turn the direction of writing."""
    assert printable(name) == shown
