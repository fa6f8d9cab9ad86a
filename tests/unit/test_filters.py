"""Seccomp filters, run in our head: what they answer, over all that is not known of a call."""

from __future__ import annotations

import struct

import pytest

from dontneed.abi import seccomp as abi
from dontneed.abi.syscalls import PIDFD_SELF, PROCESS_MADVISE
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import TargetRefused
from dontneed.remote.filters import FUNCTION_CALLS, FUNCTION_CALLS_THAT_MAY_FAIL, PASSAGE_CALLS, Call, Verdicts

DONTNEED = 4
EPERM = abi.ERRNO | 1
NUMBER = (abi.LD_ABS, 0, 0, abi.DATA_NUMBER)
ALL_ACTIONS = frozenset(abi.ACTION_NAMES)


def program(*instructions):
    """The bytes of a filter."""
    return b"".join(struct.pack(abi.INSTRUCTION, *each) for each in instructions)


def answer(word):
    """The instruction that returns a word."""
    return abi.RET_K, 0, 0, word


def low(argument):
    """Load the lower half of an argument."""
    return abi.LD_ABS, 0, 0, abi.DATA_ARGUMENTS + 8 * argument


def high(argument):
    """Load the upper half of an argument."""
    return abi.LD_ABS, 0, 0, abi.DATA_ARGUMENTS + 8 * argument + 4


def answering(*numbers, with_=abi.KILL_PROCESS, otherwise=abi.ALLOW):
    """A filter that knows these numbers alone, as one that libseccomp makes: the architecture comes first."""
    count = len(numbers)
    return program(
        (abi.LD_ABS, 0, 0, abi.DATA_ARCHITECTURE),
        (abi.JEQ, 1, 0, abi.AUDIT_ARCH_X86_64),
        answer(abi.KILL_PROCESS),
        NUMBER,
        *((abi.JEQ, count - at, 0, number) for at, number in enumerate(numbers)),
        answer(otherwise),
        answer(with_),
    )


def allow_list(*numbers, otherwise=EPERM):
    """A filter that allows these numbers alone."""
    return answering(*numbers, with_=abi.ALLOW, otherwise=otherwise)


EVERYTHING_NEEDED = tuple(call.number for call in (*PASSAGE_CALLS, *FUNCTION_CALLS, *FUNCTION_CALLS_THAT_MAY_FAIL))


def computed(*instructions, number=7):
    """The word that is in A behind these instructions, by what a filter returns that compares it."""
    word = 0
    for bit in range(32):
        one = program(NUMBER, *instructions, (abi.JSET, 0, 1, 1 << bit), answer(abi.TRAP), answer(abi.ALLOW))
        (action,) = Verdicts([one]).actions(number)
        word |= (action == abi.TRAP) << bit
    return word


# Actions


def test_without_a_filter_everything_is_allowed():
    """The usual case: no thread of the process has one."""
    assert Verdicts([]).allows(NR.MADVISE)


@pytest.mark.parametrize("action", sorted(ALL_ACTIONS))
def test_only_allow_and_log_allow(action):
    """Even ERRNO is a refusal: with errno 0 it pretends success, and nothing is given back."""
    verdicts = Verdicts([program(answer(action | 0xFFFF))])
    assert verdicts.actions(NR.GETPID) == {action}
    assert verdicts.allows(NR.GETPID) == (action in (abi.ALLOW, abi.LOG))
    assert verdicts.tolerates(NR.GETPID) == (action in (abi.ALLOW, abi.LOG, abi.ERRNO))


def test_a_kernel_that_does_not_know_log_kills_for_it():
    """Before 4.14, LOG was no action."""
    assert not Verdicts([program(answer(abi.LOG))], logs=False).allows(NR.GETPID)


def test_an_action_that_does_not_exist_kills():
    """As the kernel does with words that it does not know."""
    for word in (0x7FFE_0000, 0x0001_0000, 0x4000_0000, 0x8001_0000, 0xFFFF_FFFF):
        assert Verdicts([program(answer(word))]).actions(NR.GETPID) == {abi.KILL_PROCESS}


def test_of_several_filters_the_most_restrictive_action_counts():
    """Whatever their order; in that of include/uapi/linux/seccomp.h."""
    order = (
        *(abi.KILL_PROCESS, abi.KILL_THREAD, abi.TRAP, abi.ERRNO),
        *(abi.USER_NOTIF, abi.TRACE, abi.LOG, abi.ALLOW),
    )
    for at, first in enumerate(order):
        for second in order[at:]:
            pair = [program(answer(first)), program(answer(second))]
            assert Verdicts(pair).actions(NR.GETPID) == {first} == Verdicts(pair[::-1]).actions(NR.GETPID)


def test_an_errno_does_not_hide_what_is_worse_on_another_way():
    """ERRNO precedes TRACE where both are answers; where either may be the answer, TRACE may be."""
    either = program(low(0), (abi.JEQ, 0, 1, 5), answer(EPERM), answer(abi.TRACE))
    assert not Verdicts([either]).tolerates(NR.OPENAT)


# Instructions


def test_words_of_the_call_are_where_seccomp_data_has_them():
    """Number, architecture, and the halves of each argument, signed ones too."""
    verdicts = Verdicts(
        [
            program(
                NUMBER,
                (abi.JEQ, 0, 7, PROCESS_MADVISE),
                (abi.LD_ABS, 0, 0, abi.DATA_ARCHITECTURE),
                (abi.JEQ, 0, 5, abi.AUDIT_ARCH_X86_64),
                low(0),
                (abi.JEQ, 0, 3, PIDFD_SELF & 0xFFFF_FFFF),
                high(5),
                (abi.JEQ, 0, 1, 0x12),
                answer(abi.ALLOW),
                answer(abi.TRAP),
            )
        ]
    )
    assert verdicts.actions(PROCESS_MADVISE, (PIDFD_SELF, 0, 0, 0, 0, 0x12_0000_0034)) == {abi.ALLOW}
    assert verdicts.actions(PROCESS_MADVISE, (PIDFD_SELF, 0, 0, 0, 0, 0x13_0000_0034)) == {abi.TRAP}
    assert verdicts.actions(PROCESS_MADVISE, (1, 0, 0, 0, 0, 0x12_0000_0034)) == {abi.TRAP}


@pytest.mark.parametrize(
    ("operation", "constant", "expected"),
    [
        (abi.ADD, 0xFFFF_FFFF, 6),
        (abi.SUB, 8, 0xFFFF_FFFF),
        (abi.MUL, 0x8000_0001, 0x8000_0007),
        (abi.DIV, 2, 3),
        (abi.AND, 0xA, 2),
        (abi.OR, 0x18, 0x1F),
        (abi.XOR, 5, 2),
        (abi.LSH, 30, 0xC000_0000),
        (abi.RSH, 1, 3),
    ],
)
def test_arithmetic_is_that_of_32_bits(operation, constant, expected):
    """With a constant, and with the index register."""
    assert computed((operation, 0, 0, constant)) == expected
    assert computed((abi.LDX_IMM, 0, 0, constant), (operation | abi.SOURCE_X, 0, 0, 0)) == expected


def test_moves():
    """Between the accumulator, the index register and the scratch words; and the length, which is 64."""
    assert computed((abi.NEG, 0, 0, 0)) == 0xFFFF_FFF9
    assert computed((abi.LD_IMM, 0, 0, 9)) == 9
    assert computed((abi.LD_LEN, 0, 0, 0)) == 64
    assert computed((abi.LDX_LEN, 0, 0, 0), (abi.TXA, 0, 0, 0)) == 64
    assert computed((abi.TAX, 0, 0, 0), (abi.LD_IMM, 0, 0, 0), (abi.TXA, 0, 0, 0)) == 7
    assert computed((abi.ST, 0, 0, 15), (abi.LD_IMM, 0, 0, 0), (abi.LD_MEM, 0, 0, 15)) == 7
    assert computed((abi.ST, 0, 0, 3), (abi.LDX_MEM, 0, 0, 3), (abi.LD_IMM, 0, 0, 1), (abi.ADD | 8, 0, 0, 0)) == 8
    assert computed((abi.TAX, 0, 0, 0), (abi.STX, 0, 0, 2), (abi.LD_IMM, 0, 0, 1), (abi.LD_MEM, 0, 0, 2)) == 7


@pytest.mark.parametrize(
    ("jump", "word", "holds"),
    [
        *((abi.JEQ, 7, True), (abi.JEQ, 8, False), (abi.JGT, 7, False), (abi.JGT, 6, True)),
        *((abi.JGE, 7, True), (abi.JGE, 8, False), (abi.JSET, 4, True), (abi.JSET, 8, False)),
        *((abi.JGT, 0xFFFF_FFF0, False), (abi.JGE, 0x8000_0000, False)),
    ],
)
def test_jumps_compare_without_sign(jump, word, holds):
    """With a constant, and with the index register; a jump that always goes the other way behind them."""
    ends = ((abi.JA, 0, 0, 1), answer(abi.TRAP), answer(abi.ALLOW))
    by_constant = program(NUMBER, (jump, 1, 0, word), *ends)
    by_index = program(NUMBER, (abi.LDX_IMM, 0, 0, word), (jump | abi.SOURCE_X, 1, 0, 0), *ends)
    for each in (by_constant, by_index):
        assert Verdicts([each]).actions(7) == {abi.TRAP if holds else abi.ALLOW}


def test_the_accumulator_can_be_returned():
    """And where it is not known, it may be any answer."""
    assert Verdicts([program((abi.LD_IMM, 0, 0, abi.LOG), (abi.RET_A, 0, 0, 0))]).actions(1) == {abi.LOG}
    assert Verdicts([program(low(0), (abi.RET_A, 0, 0, 0))]).actions(1) == ALL_ACTIONS


def test_division_by_zero_kills():
    """The kernel returns 0 from such a filter; an index register that is not known may be 0."""
    divide = (abi.DIV | abi.SOURCE_X, 0, 0, 0)
    assert Verdicts([program(divide, answer(abi.ALLOW))]).actions(1) == {abi.KILL_THREAD}
    unknown = program(low(0), (abi.TAX, 0, 0, 0), divide, answer(abi.ALLOW))
    assert Verdicts([unknown]).actions(1) == {abi.KILL_THREAD, abi.ALLOW}


# What is not known


def test_both_ways_are_taken_where_a_jump_depends_on_what_is_not_known():
    """An address, for instance. With the argument, there is one answer."""
    verdicts = Verdicts([program(low(1), (abi.JGT, 0, 1, 4096), answer(abi.TRAP), answer(abi.ALLOW))])
    assert verdicts.actions(NR.MUNMAP) == verdicts.actions(NR.MUNMAP, (0, None)) == {abi.TRAP, abi.ALLOW}
    assert not verdicts.allows(NR.MUNMAP)
    assert verdicts.allows(NR.MUNMAP, 0, 4096)
    assert not verdicts.allows(NR.MUNMAP, 0, 4097)


@pytest.mark.parametrize("operation", sorted(abi.ARITHMETIC | {abi.NEG}))
def test_what_is_computed_from_an_unknown_word_is_unknown(operation):
    """Through every instruction, the registers and the scratch words."""
    keep = ((abi.ST, 0, 0, 1), (abi.LDX_MEM, 0, 0, 1), (abi.TXA, 0, 0, 0))
    filter_ = program(low(0), (operation, 0, 0, 3), *keep, (abi.JEQ, 0, 1, 9), answer(abi.TRAP), answer(abi.ALLOW))
    assert Verdicts([filter_]).actions(1) == {abi.TRAP, abi.ALLOW}


def test_the_place_of_the_instruction_is_not_known():
    """A filter may allow calls from one library alone; which instruction calls, we don't claim to know."""
    place = (abi.LD_ABS, 0, 0, abi.DATA_INSTRUCTION_POINTER)
    assert not Verdicts([program(place, (abi.JGT, 0, 1, 0), answer(abi.ALLOW), answer(abi.TRAP))]).allows(NR.GETPID)


def test_what_is_the_same_on_every_way_is_allowed():
    """A look at an argument is no harm where all ways end alike."""
    same = program(low(2), (abi.JEQ, 1, 0, 4), answer(abi.LOG), answer(abi.ALLOW))
    assert Verdicts([same]).allows(NR.MADVISE)


def test_a_filter_of_too_many_ways_is_not_followed():
    """2^20 of them: each unknown bit of an argument leads to another sum, and all are told apart."""
    steps = []
    for bit in range(20):
        steps += [low(0), (abi.JSET, 0, 2, 1 << bit), (abi.LD_IMM, 0, 0, bit + 1), (abi.ST, 0, 0, bit % 16)]
        steps += [(abi.LD_MEM, 0, 0, (bit + 1) % 16), (abi.ADD, 0, 0, 1 << bit), (abi.ST, 0, 0, (bit + 1) % 16)]
    start = [(abi.LD_IMM, 0, 0, 0), *((abi.ST, 0, 0, at) for at in range(16))]
    assert Verdicts([program(*start, *steps, answer(abi.ALLOW))]).actions(1) == ALL_ACTIONS


def test_ways_that_meet_again_are_followed_once():
    """A thousand jumps on unknown words, one behind the other, are a thousand ways and not 2^1000."""
    jumps = [each for bit in range(1000) for each in (low(0), (abi.JSET, 0, 1, 1 << bit % 32), NUMBER)]
    assert Verdicts([program(*jumps, NUMBER, answer(abi.ALLOW))]).allows(1)


# Filters that no kernel would have taken


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        program(answer(abi.ALLOW))[:-1],
        program(NUMBER),
        program((0x28, 0, 0, 0), answer(abi.ALLOW)),
        program((0x94, 0, 0, 3), answer(abi.ALLOW)),
        program((0x8C, 0, 0, 0), answer(abi.ALLOW)),
        program((0x120, 0, 0, 0), answer(abi.ALLOW)),
        program((abi.LD_ABS, 0, 0, 64), answer(abi.ALLOW)),
        program((abi.LD_ABS, 0, 0, 2), answer(abi.ALLOW)),
        program((abi.LD_MEM, 0, 0, 16), answer(abi.ALLOW)),
        program((abi.STX, 0, 0, 16), answer(abi.ALLOW)),
        program((abi.JEQ, 0, 1, 0), answer(abi.ALLOW)),
        program((abi.JA, 0, 0, 1), answer(abi.ALLOW)),
        program((abi.JA, 0, 0, 0xFFFF_FFFF), answer(abi.ALLOW)),
        program((abi.DIV, 0, 0, 0), answer(abi.ALLOW)),
        program((abi.RSH, 0, 0, 32), answer(abi.ALLOW)),
        program(*[answer(abi.ALLOW)] * 4097),
    ],
)
def test_a_filter_that_we_do_not_understand_could_do_anything(broken):
    """What the kernel takes and we don't know is no reason to try, even where other filters allow."""
    verdicts = Verdicts([program(answer(abi.ALLOW)), broken])
    assert verdicts.actions(NR.GETPID) == ALL_ACTIONS
    assert not verdicts.allows(NR.GETPID)
    assert not verdicts.tolerates(NR.GETPID)


# Filters as they are met


def test_a_list_like_that_of_a_container_allows_all_that_we_need():
    """It allows by number, returns EPERM otherwise, and looks at arguments of calls that are none of ours."""
    verdicts = Verdicts([allow_list(*EVERYTHING_NEEDED, NR.WRITE, NR.POLL)])
    assert not verdicts.why_not([*PASSAGE_CALLS, *FUNCTION_CALLS], FUNCTION_CALLS_THAT_MAY_FAIL)
    assert not verdicts.allows(PROCESS_MADVISE, PIDFD_SELF)


def test_another_filter_of_the_same_thread_is_heard_as_well():
    """As with a service in a container that installs one of its own."""
    verdicts = Verdicts([allow_list(*EVERYTHING_NEEDED), answering(NR.MADVISE, with_=abi.TRAP)])
    why = verdicts.why_not(PASSAGE_CALLS)
    assert "madvise" in why
    assert "TRAP" in why


@pytest.mark.parametrize("call", PASSAGE_CALLS)
def test_each_call_of_a_passage_is_needed(call):
    """A list without it forbids the passage."""
    allowed = [number for number in EVERYTHING_NEEDED if number != call.number]
    assert Verdicts([allow_list(*allowed)]).why_not(PASSAGE_CALLS)


def test_calls_of_functions_that_may_fail_may_fail_and_no_more():
    """An errno for openat is an answer that malloc knows; SIGSYS is not."""
    for action, harmless in ((EPERM, True), (abi.TRAP, False), (abi.KILL_THREAD, False), (abi.USER_NOTIF, False)):
        verdicts = Verdicts([answering(NR.OPENAT, with_=action)])
        assert bool(verdicts.why_not(FUNCTION_CALLS, FUNCTION_CALLS_THAT_MAY_FAIL)) != harmless


def test_memory_that_must_not_become_code_does_not_concern_us():
    """MemoryDenyWriteExecute= of systemd looks at the protection that mmap and mprotect are asked for."""
    deny = program(
        NUMBER,
        (abi.JEQ, 1, 0, NR.MMAP),
        (abi.JEQ, 0, 4, NR.MPROTECT),
        low(2),
        (abi.AND, 0, 0, 4),
        (abi.JEQ, 0, 1, 4),
        answer(EPERM),
        answer(abi.ALLOW),
    )
    verdicts = Verdicts([deny])
    assert not verdicts.why_not(FUNCTION_CALLS, FUNCTION_CALLS_THAT_MAY_FAIL)
    assert not verdicts.allows(NR.MPROTECT)


def test_an_advice_may_be_forbidden_by_its_number():
    """By both halves of the argument, as libseccomp compares."""
    by_advice = program(
        NUMBER,
        (abi.JEQ, 0, 5, NR.MADVISE),
        high(2),
        (abi.JEQ, 0, 3, 0),
        low(2),
        (abi.JEQ, 0, 1, DONTNEED),
        answer(abi.KILL_PROCESS),
        answer(abi.ALLOW),
    )
    verdicts = Verdicts([by_advice])
    assert verdicts.why_not(PASSAGE_CALLS)
    assert verdicts.allows(NR.MADVISE, None, None, 8)
    with pytest.raises(TargetRefused, match="answers madvise with KILL_PROCESS"):
        verdicts.require(NR.MADVISE, 4096, 4096, DONTNEED)


def test_the_call_that_a_thread_waits_in_is_judged_with_all_its_arguments():
    """It is made again by hand if we die; a list may have allowed it for these alone."""
    by_timeout = program(low(2), (abi.JEQ, 0, 1, 100), answer(abi.ALLOW), answer(abi.KILL_THREAD))
    assert not Verdicts([by_timeout]).why_not([Call(NR.POLL, (0, 0, 100, 1, 2, 3))])
    assert Verdicts([by_timeout]).why_not([Call(NR.POLL, (0, 0, 101, 1, 2, 3))])
