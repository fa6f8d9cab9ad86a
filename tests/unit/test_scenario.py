"""Scenarios: every word, what it answers, what is expected, and every line that cannot be read."""

from __future__ import annotations

import pytest

from dontneed.errors import DontneedError, ProcessGone, UsageError
from dontneed.lab.catalogue import machine_named, run_experiment
from dontneed.lab.scenario import scenario_of
from dontneed.lab.scenario_words import EXPECTABLE, WORDS

OLD, NEW = "2.6.32", "6.18"


def perform(*lines, machine=NEW, explain=False):
    """What came of a scenario."""
    return run_experiment(scenario_of("\n".join(lines), "my.scenario"), machine_named(machine), explain=explain)


def held(run):
    """The claims that do not hold; none."""
    return [f"{claim.text}: {claim.expected}, {claim.observed}" for claim in run.claims if not claim.holds]


EVERY_WORD = """\
question What's left, and who has it?  # with an apostrophe
architecture x86-64

# files
file f 16 A
file g 16 G in memory
map p 16 file f private
map s 16 file f shared
map m 16 file g shared
map a 64 anonymous
map x 16 shared
look it's mapped
write a Z
write s B
read p -> B
write p[0:4] C
read p → C B
expect p present 16
expect p rss 64
expect a rss 256 KiB
expect a rss 64 pages
expect a rss 262144 bytes
lock a[0:2] -> 0
advise a DONTNEED -> EINVAL
unlock a[0:2] -> 0
protect a[3] none -> 0
touch a[3] -> SIGSEGV
touch a[4] write -> 0
protect a[3] rw
advise a MADV_DONTNEED -> 0
read a[:2] -> 0
write a[1] Y
read a[0:3] -> Y 0
posix-advise a DONTNEED -> 0
read a[1] -> Y
fork c
c: write a[1] X
c: look what the child has
c: read a[1] -> X
read a[1] -> Y
end c
advise p DONTNEED -> 0
read p -> B
read-file f -> B
unmap x -> 0
expect x size 0
remap a 128
expect a size 512
remap m 8
expect m size 32
thread t 64
use-stack t 5
end t
unmap a[1:2] -> 0
advise a[0:4] DONTNEED -> ENOMEM
"""

ON_THE_NEWEST = """\
hugetlb 1
map h 512 hugetlb
write h H
expect h hugetlb 2 MiB
map t 1024 huge
write t T
expect t huge 4 MiB
advise t[0:1] DONTNEED
expect t huge 2 MiB
map g 8
advise g[2:4] GUARD_INSTALL -> 0
touch g -> SIGSEGV
expect g guarded 2
map e 4 protection r
seal e -> 0
unmap e -> EPERM
map l 4
write l L
advise l FREE -> 0
read l -> L
"""


@pytest.mark.parametrize("machine", [OLD, "4.14", NEW, "live"])
def test_every_word_does_as_it_says(machine):
    """In the model and on this kernel, for what all of them can."""
    run = perform(*EVERY_WORD.splitlines(), machine=machine)
    assert held(run) == []
    assert run.skipped is None
    assert run.question == "What's left, and who has it?  # with an apostrophe"
    assert [step.title for step in run.steps][:2] == ["it's mapped", "As line 18 finds it"]


@pytest.mark.parametrize(
    "machine",
    [NEW, pytest.param("live", marks=[pytest.mark.needs_root, pytest.mark.needs_kernel("6.18")])],
)
def test_what_newer_kernels_have_is_there(machine):
    """Huge pages, guards, seals, lazy freeing."""
    assert held(perform(*ON_THE_NEWEST.splitlines(), machine=machine)) == []


def test_swap_and_khugepaged_are_words_too():
    """Swapped pages are counted, and brought back; a half-released huge page is made whole."""
    run = perform(
        "swap on",
        "map a 16",
        "write a Z",
        "advise a[0:8] PAGEOUT -> 0",
        "expect a swap 32 KiB",
        "expect a swapped 8",
        "read a -> Z",
        "expect a swap 0",
        "map h 512 huge",
        "write h H",
        "advise h[0:256] DONTNEED",
        "expect h rss 1 MiB",
        "khugepaged h",
        "expect h huge 2 MiB",
        "expect h frames 512",
    )
    assert held(run) == []


def test_no_word_is_left_untested():
    """Every word of the language is in one of the scenarios above."""
    used = {word for line in (EVERY_WORD + ON_THE_NEWEST).splitlines() for word in line.replace("c: ", "").split()[:1]}
    assert set(WORDS) <= used | {"swap", "khugepaged"}


@pytest.mark.parametrize("quantity", EXPECTABLE)
def test_every_quantity_can_be_expected(quantity):
    """And what is wrong about it is a claim that does not hold."""
    run = perform("map a 4", f"expect a {quantity} 12345 pages")
    (claim,) = run.claims
    assert (claim.text, claim.expected) == (f"line 2, {quantity} of a", "12345 pages")
    assert not claim.holds
    assert not run.passed


def test_an_amount_that_is_no_multiple_of_the_unit_is_not_rounded():
    """1.5 MiB are not 1 MiB."""
    (claim,) = perform("map a 384", "expect a size 1 MiB").claims
    assert (claim.expected, claim.observed) == ("1 MiB", "1572864 bytes")


def test_an_answer_names_the_line_and_the_call():
    """As one finds it in the file."""
    run = perform("", "# nothing yet", "map a 4", "fork c", "c: advise a DONTNEED -> EINVAL")
    (claim,) = run.claims
    assert (claim.text, claim.expected, claim.observed) == ("line 5, c: advise a DONTNEED", "EINVAL", "0")


def test_an_expectation_looks_only_if_something_was_done_since():
    """Two in a row share a step; the end of the scenario is a step if something is untold."""
    titles = [step.title for step in perform("map a 4", "expect a rss 0", "expect a size 16", "write a Z").steps]
    assert titles == ["As line 2 finds it", "At the end"]
    run = perform("map a 4", "fork c", "c: write a X", "c: expect a rss 16", "expect a rss 0")
    assert [step.title for step in run.steps] == ["c: As line 4 finds it", "As line 5 finds it"]
    assert held(run) == []


def test_a_scenario_that_claims_nothing_says_so():
    """It shows something, and is neither right nor wrong."""
    run = perform("map a 4")
    assert not run.passed
    assert run.verdict.startswith("Nothing was claimed on Linux 6.18")


def test_a_word_that_the_machine_lacks_skips_the_run_and_names_the_line():
    """No failure: 2.6.32 has no seals."""
    run = perform("map a 4", "seal a", machine=OLD)
    assert run.skipped == "my.scenario, line 2: Linux 2.6.32 does not seal memory: seal a"


def test_every_discard_is_explained():
    """With --explain the way is in the step that did it."""
    run = perform("map a 4", "write a Z", "look before", "advise a DONTNEED", explain=True)
    assert [bool(step.path) for step in run.steps] == [False, True]
    assert run.steps[1].path[0].function == "do_madvise"


# Lines that cannot be read


@pytest.mark.parametrize(
    ("lines", "number", "wrong", "right"),
    [
        (["map a 4", "foo a"], 2, "no word 'foo'", "advise, end"),
        (["x:"], 1, "no word ''", "advise, end"),
        (["map a"], 1, "too few or too many", "map NAME PAGES ["),
        (["map a 4", "", "look"], 3, "too few or too many", "look TITLE"),
        (["map a 0"], 1, "0 is too small", "1 or more"),
        (["map a -3"], 1, "-3 is too small", "1 or more"),
        (["map a many"], 1, "'many' is no number", "0x400"),
        (["map a 99999999999"], 1, "too many", "4 GiB"),
        (["map a 4", "map a 4"], 2, "there is a 'a' already", "a name of its own"),
        (["map a-b 4"], 1, "cannot be a name", "letters"),
        (["map for 4"], 1, "cannot be a name", "Python"),
        (["map mmap 4"], 1, "cannot be a name", "Python"),
        (["map a 4 blue"], 1, "'blue' is no kind", "anonymous | shared"),
        (["map a 4 file"], 1, "no file ''", "file NAME PAGES LETTER"),
        (["map a 512 hugetlb shared"], 1, "no memory is all of that", "hugetlb"),
        (["map a 512 hugetlb huge"], 1, "no memory is all of that", "hugetlb"),
        (["map a 4 protection x"], 1, "'x' is no protection", "r, w, rw or none"),
        (["file f 4 A on tape"], 1, "says nothing of a file", "[in memory]"),
        (["map a 4", "write a 0"], 2, "'0' is no letter", "A to Z"),
        (["map a 4", "write a ZZ"], 2, "'ZZ' is no letter", "A to Z"),
        (["advise a DONTNEED"], 1, "no region 'a'", "map NAME PAGES"),
        (["map a 4", "advise b DONTNEED"], 2, "no region 'b'", "one of: a"),
        (["map a 4", "write a[0:9] Z"], 2, "'a[0:9]' is no part", "pages 0 to 4"),
        (["map a 4", "write a[2:2] Z"], 2, "is no part", "pages 0 to 4"),
        (["map a 4", "write a[1 Z"], 2, "is no part", "pages 0 to 4"),
        (["map a 4", "write a[x] Z"], 2, "'x' is no number", "0x400"),
        (["map a 4", "remap a[0:2] 8"], 2, "a part cannot", "without ["),
        (["map a 4", "advise a DONTNED"], 2, "'DONTNED'", "DONTNEED"),
        (["map a 4", "posix-advise a FREE"], 2, "'FREE'", "DONTNEED"),
        (["map a 4", "advise a DONTNEED -> EINVL"], 2, "no errno", "-> EINVAL"),
        (["map a 4", "advise a DONTNEED ->"], 2, "no errno", "-> EINVAL"),
        (["map a 4", "touch a -> SEGV"], 2, "no signal", "-> SIGSEGV"),
        (["map a 4", "touch a twice"], 2, "reads or writes", "touch REGION [write]"),
        (["map a 4", "read a ->"], 2, "letters are missing", "-> Z"),
        (["map a 4", "read a -> zeros"], 2, "'zeros' is no letter", "A to Z"),
        (["map a 4", "write a Z -> 0"], 2, "no answer can be expected", "->"),
        (["map a 4", "expect a shoes 3"], 2, "nobody counts 'shoes'", "rss"),
        (["map a 4", "expect a rss 3 KB"], 2, "'KB' is no unit", "KiB"),
        (["map a 4", "expect a frames 3 KiB"], 2, "counted in pages", "expect a frames NUMBER"),
        (["map a 4", "expect a rss -1"], 2, "too small", "0 or more"),
        (["c: map a 4"], 1, "no process 'c' now", "fork NAME"),
        (["fork c", "end c", "c: map a 4"], 3, "no process 'c' now", "fork NAME"),
        (["fork c", "fork c"], 2, "there is a 'c' already", "a name of its own"),
        (["map a 4", "end a"], 2, "no thread 'a' now", "thread NAME PAGES"),
        (["thread t 64", "use-stack t 64"], 2, "not that long", "fewer than"),
        (["swap off"], 1, "cannot be taken away", "swap on"),
        (["map a 4 'b"], 1, "No closing quotation", "in pairs"),
        (["architecture aarch64"], 1, "no page tables of that architecture", "x86-64"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_with_what_is_wrong_and_what_would_be_right(lines, number, wrong, right):
    """And the command ends with exit code 2."""
    with pytest.raises(UsageError) as caught:
        perform(*lines)
    message = str(caught.value)
    assert message.startswith(f"my.scenario, line {number}: ")
    assert message.endswith(f": {lines[-1]}")
    assert message.count("my.scenario") == 1
    assert wrong in message
    assert right in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "question Why?"])
def test_a_scenario_in_which_nothing_is_done_says_so(text):
    """With a first one to try."""
    with pytest.raises(UsageError, match="nothing is done in it"):
        scenario_of(text, "my.scenario")


@pytest.mark.parametrize("machine", [NEW, "live"])
def test_a_process_that_ends_by_a_signal_names_the_line(machine):
    """As other troubles do, with their own exit codes."""
    with pytest.raises(ProcessGone, match=r"my.scenario, line 2: .* signal 11: write a Z"):
        perform("map a 4 protection r", "write a Z", machine=machine)
    with pytest.raises(DontneedError, match=r"my.scenario, line 1: .*ENOMEM|memory.*: map h 512 hugetlb"):
        perform("map h 512 hugetlb", machine=NEW)


def test_lines_are_counted_as_an_editor_does():
    """Whatever ends them, and whatever else Unicode calls the end of a line."""
    for text in ("map a 4\r\n\r\nfoo\r\n", "question a\u2028b\x0c\nmap a 4\nfoo"):
        with pytest.raises(UsageError, match="line 3: "):
            scenario_of(text, "my.scenario")


def test_the_name_of_a_scenario_is_that_of_its_file():
    """Without directories and suffix; a hidden file keeps its name."""
    assert scenario_of("map a 4", "some/where/mine.scenario").name == "mine"
    assert scenario_of("map a 4", "standard input").name == "standard input"
