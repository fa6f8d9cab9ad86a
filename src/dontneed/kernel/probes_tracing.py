"""Harmless trials of what looks into the kernel itself; as those of `probes`, and with the same outcomes.

A program that is tried is loaded, run once and gone. It reads the kernel's record of ourselves, and nothing of anyone
else.
"""

from __future__ import annotations

import errno

from dontneed.kernel.probes import Lacking, SwitchedOff

_LOCKDOWN = "/sys/kernel/security/lockdown"
_LOCKED_DOWN = "a kernel without lockdown=confidentiality: it is on its command line, or comes with Secure Boot"
_NO_HELPER = (errno.EINVAL, errno.EACCES, errno.EPERM)
"""What the verifier says of a helper that a program may not call."""


def try_bpf() -> str:
    """Load a program that does nothing, and run it."""
    from dontneed.kernel.bpf import Assembler, Program

    code = Assembler()
    code.exit(0)
    with Program("dontneed_try", code) as program:
        program.run()
    return "ran a program of ours"


def try_btf() -> str:
    """Read the start of the kernel's description of its types."""
    from dontneed.kernel.btf import PATH, is_btf

    with open(PATH, "rb") as file:
        start = file.read(64)
    if not is_btf(start):
        raise Lacking("it is in no form that dontneed reads")
    return "the kernel describes its types"


def try_kernel_memory() -> str:
    """Read the first word of our own task_struct, by a program."""
    from dontneed.abi import bpf as abi
    from dontneed.kernel.bpf import R0, R1, R2, R3, R6, STACK, Assembler, Program

    code = Assembler()
    code.move(R6, R1)
    code.call(abi.GET_CURRENT_TASK)
    code.move(R3, R0)
    code.move(R1, STACK)
    code.add(R1, -8)
    code.move(R2, 8)
    code.call(abi.PROBE_READ_KERNEL)
    code.store(R6, 0, R0)
    code.exit(0)
    try:
        with Program("dontneed_try", code, context_bytes=8) as program:
            program.run()
            failed = any(program.context)
    except OSError as refusal:
        if refusal.errno in _NO_HELPER:
            _judge_refusal(refusal)
        raise
    if failed:
        raise Lacking("the kernel did not read its own memory")
    return "read the kernel's record of this process"


def _judge_refusal(refusal: OSError) -> None:
    """Who took the helper away: the verifier says the same of lockdown and of a missing capability."""
    from dontneed.kernel.capabilities import read_privileges
    from dontneed.kernel.environment import chosen_word

    lockdown = chosen_word(_read(_LOCKDOWN))
    if lockdown == "confidentiality":
        raise SwitchedOff("lockdown=confidentiality keeps the kernel's memory from everyone", _LOCKED_DOWN) from None
    if not read_privileges().holds("CAP_PERFMON"):
        raise PermissionError(errno.EPERM, "not permitted", "bpf") from None
    if refusal.errno != errno.EPERM and "probe_read_kernel" in str(refusal):
        raise SwitchedOff("the kernel's verifier refuses to read kernel memory: lockdown?", _LOCKED_DOWN) from None


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:  # no securityfs here: the setting is not to be seen
        return None


def try_cachestat() -> str:
    """Count the page of a file of our own in memory."""
    from dontneed.kernel.cachestat import try_counting

    return f"counted {try_counting()} page of a file of one page"
