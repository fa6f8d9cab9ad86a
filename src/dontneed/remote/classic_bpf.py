"""What a seccomp filter may answer to a system call of which not everything is known: classic BPF, run in our head.

A word that is not known is None, and so is whatever is computed with it. Where a jump depends on one, both ways are
taken. A way never leads back, so that each ends; a way that comes to where another one was, with the same values, ends
there. All answers found are possible answers, though some may not be: words are not remembered as equal to themselves.

Kernel:
    net/core/filter.c bpf_check_classic(), bpf_convert_filter(); kernel/seccomp.c seccomp_check_filter().
"""

from __future__ import annotations

import struct

from dontneed.abi import seccomp as abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Word: TypeAlias = int | None
    Instruction: TypeAlias = tuple[int, int, int, int]
    Program: TypeAlias = list[Instruction]

ANYTHING = frozenset(abi.ACTION_NAMES)
"""Every action: what is said of a filter that cannot be followed."""

_WORD = 0xFFFF_FFFF
_WORD_BITS = 32
_MOST_WAYS = 10_000
_PLAIN = frozenset({abi.LD_LEN, abi.LDX_LEN, abi.LD_IMM, abi.LDX_IMM, abi.TAX, abi.TXA, abi.NEG, abi.RET_K, abi.RET_A})
"""Instructions in which nothing can be wrong."""


def data_words(number: int, arguments: tuple[Word, ...]) -> list[Word]:
    """A call as a filter sees it: struct seccomp_data as words of 32 bits, None where they are not known.

    Args:
        number: of the system call.
        arguments: words of 64 bits, signed or not; None, or left out: not known.
    """
    words: list[Word] = [None] * (abi.DATA_BYTES // 4)
    words[abi.DATA_NUMBER // 4] = number & _WORD
    words[abi.DATA_ARCHITECTURE // 4] = abi.AUDIT_ARCH_X86_64
    for at, argument in enumerate(arguments):
        if argument is not None:
            low = abi.DATA_ARGUMENTS // 4 + 2 * at
            words[low : low + 2] = argument & _WORD, argument >> _WORD_BITS & _WORD
    return words


def parse_filter(data: bytes) -> Program | None:
    """The instructions of a filter, `(code, jump if true, jump if false, k)`; None if the kernel would not take it."""
    count, rest = divmod(len(data), abi.INSTRUCTION_BYTES)
    if rest or not 0 < count <= abi.MOST_INSTRUCTIONS:
        return None
    program: Program = list(struct.iter_unpack(abi.INSTRUCTION, data))
    if program[-1][0] not in (abi.RET_K, abi.RET_A):
        return None
    return program if all(_is_sound(at, each, count) for at, each in enumerate(program)) else None


def possible_actions(program: Program | None, words: list[Word]) -> frozenset[int]:
    """Every action that a filter may answer a call with.

    Args:
        program: as `parse_filter` has it.
        words: the call, as `data_words` has it.
    """
    if program is None:
        return ANYTHING
    answers: set[int] = set()
    ways = [_Way()]
    seen = {ways[0].place}
    while ways:
        way = ways.pop()
        for onward in _follow(program, words, way, answers):
            if onward.place not in seen:
                seen.add(onward.place)
                ways.append(onward)
        if len(seen) > _MOST_WAYS:
            return ANYTHING
    return frozenset(answers)


def _is_sound(at: int, instruction: Instruction, count: int) -> bool:
    """Whether an instruction is one that filters may have, and leads nowhere outside."""
    code, if_true, if_false, k = instruction
    operation = code & ~abi.SOURCE_X
    if code == abi.LD_ABS:
        return k < abi.DATA_BYTES and k % 4 == 0
    if code in (abi.LD_MEM, abi.LDX_MEM, abi.ST, abi.STX):
        return k < abi.SCRATCH_WORDS
    if code == abi.JA or operation in abi.JUMPS:
        return at + 1 + (k if code == abi.JA else max(if_true, if_false)) < count
    if operation in abi.ARITHMETIC:
        return bool(code & abi.SOURCE_X) or _is_sound_constant(operation, k)
    return code in _PLAIN


def _is_sound_constant(operation: int, k: int) -> bool:
    if operation == abi.DIV:
        return k != 0
    return operation not in (abi.LSH, abi.RSH) or k < _WORD_BITS


class _Way:
    """One way through a filter: the next instruction, the accumulator, the index register, the scratch words."""

    __slots__ = ("a", "at", "scratch", "x")

    def __init__(self, at: int = 0, a: Word = 0, x: Word = 0, scratch: tuple[Word, ...] = ()) -> None:
        self.at = at
        self.a = a
        self.x = x
        self.scratch = scratch or (None,) * abi.SCRATCH_WORDS

    @property
    def place(self) -> tuple[int, Word, Word, tuple[Word, ...]]:
        """What tells it from other ways from here on."""
        return self.at, self.a, self.x, self.scratch

    def at_instruction(self, at: int) -> _Way:
        """The same, elsewhere."""
        return _Way(at, self.a, self.x, self.scratch)

    def set_register(self, code: int, k: int) -> None:
        """Carry out an instruction that moves a word, other than from the call."""
        if code in (abi.LD_IMM, abi.LD_LEN, abi.LD_MEM, abi.TXA):
            self.a = {abi.LD_IMM: k, abi.LD_LEN: abi.DATA_BYTES, abi.TXA: self.x}.get(code, self._kept(k))
        elif code in (abi.LDX_IMM, abi.LDX_LEN, abi.LDX_MEM, abi.TAX):
            self.x = {abi.LDX_IMM: k, abi.LDX_LEN: abi.DATA_BYTES, abi.TAX: self.a}.get(code, self._kept(k))
        else:
            word = self.a if code == abi.ST else self.x
            self.scratch = (*self.scratch[:k], word, *self.scratch[k + 1 :])

    def _kept(self, k: int) -> Word:
        return self.scratch[k % abi.SCRATCH_WORDS]


_MOVES = frozenset(
    {
        *(abi.LD_IMM, abi.LD_LEN, abi.LD_MEM, abi.TXA, abi.LDX_IMM, abi.LDX_LEN, abi.LDX_MEM, abi.TAX),
        *(abi.ST, abi.STX),
    }
)


def _follow(program: Program, words: list[Word], way: _Way, answers: set[int]) -> tuple[_Way, ...]:
    """Follow a way to its end, whose action is added to `answers`; or to where it parts: both ways from there."""
    while True:
        code, if_true, if_false, k = program[way.at]
        way.at += 1
        operation = code & ~abi.SOURCE_X
        operand = way.x if code & abi.SOURCE_X else k
        if operation in abi.JUMPS:
            holds = _holds(operation, way.a, operand)
            if holds is None:
                return way.at_instruction(way.at + if_true), way.at_instruction(way.at + if_false)
            way.at += if_true if holds else if_false
        elif code == abi.LD_ABS:
            way.a = words[k // 4]
        elif code in (abi.RET_K, abi.RET_A):
            answers.update(_actions_of(k if code == abi.RET_K else way.a))
            return ()
        elif code == abi.JA:
            way.at += k
        elif code in _MOVES:
            way.set_register(code, k)
        else:
            if operation == abi.DIV and not operand:  # division by zero ends a filter with 0; so may an unknown word
                answers.add(abi.KILL_THREAD)
                if operand == 0:
                    return ()
            way.a = _computed(operation, way.a, operand)


def _holds(jump: int, a: Word, operand: Word) -> bool | None:
    """Whether the condition of a jump holds; None if it may or may not."""
    if a is None or operand is None:
        return None
    if jump == abi.JEQ:
        return a == operand
    if jump == abi.JGT:
        return a > operand
    if jump == abi.JGE:
        return a >= operand
    return bool(a & operand)


def _computed(operation: int, a: Word, operand: Word) -> Word:
    """The result of an instruction of arithmetic, in 32 bits; None if it is not known."""
    if a is None or (operand is None and operation != abi.NEG):
        return None
    by = operand or 0
    bits = by % _WORD_BITS  # processors leave the rest of it out
    if operation == abi.DIV:
        return a // by
    results = {
        abi.ADD: a + by,
        abi.SUB: a - by,
        abi.MUL: a * by,
        abi.AND: a & by,
        abi.OR: a | by,
        abi.XOR: a ^ by,
        abi.LSH: a << bits,
        abi.RSH: a >> bits,
        abi.NEG: -a,
    }
    return results[operation] & _WORD


def _actions_of(answer: Word) -> frozenset[int]:
    """The action in a word that a filter returns; one that does not exist kills the process."""
    if answer is None:
        return ANYTHING
    action = answer & abi.ACTION_MASK
    return frozenset({action if action in abi.ACTION_NAMES else abi.KILL_PROCESS})
