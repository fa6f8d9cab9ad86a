"""What a stopped thread is on x86-64: registers, instructions, errnos that never reach a program, signal frames.

Sources, all of Linux 6.18: arch/x86/include/asm/user_64.h (user_regs_struct), include/linux/errno.h (restarts),
arch/x86/include/uapi/asm/sigcontext.h, arch/x86/include/asm/sigframe.h, arch/x86/kernel/signal_64.c (signal frames),
arch/x86/kernel/fpu/signal.c and xstate.c (vector state).
"""

from __future__ import annotations

REGISTER_NAMES = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
"""struct user_regs_struct: 27 words of 8 bytes. A 32-bit thread has 17 of 4."""

SYSCALL_ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
FUNCTION_ARGUMENTS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
"""System V ABI, 3.2.3."""

CODE_SEGMENT_64 = 0x33
"""__USER_CS. 0x23 is 32-bit code, which a 64-bit process can jump into."""
DIRECTION_FLAG = 0x400
RED_ZONE_BYTES = 128
"""Below the stack pointer, and still in use: System V ABI, 3.2.2."""

# Instructions, as bytes.
SYSCALL = b"\x0f\x05"
SYSCALL_RETURN = b"\x0f\x05\xc3"
RETURN = b"\xc3"
POP_RDI_RETURN = b"\x5f\xc3"
RESTORE_RT = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"
"""mov $15, %rax; syscall: what a signal handler of every C library returns to (__restore_rt)."""
HARMLESS_CALL_RETURN = rb"\xb8[\x27\x66\x68\x6b\x6c\x6e]\0\0\0\x0f\x05\xc3"
"""mov $number, %eax; syscall; ret: the whole of getpid, getuid, getgid, geteuid, getegid, getppid. A pattern."""
HARMLESS_CALL_BYTES = 8
STORE_RAX_RETURN = (
    rb"(?:\x48\x89(?:\x03|[\x43\x45].|[\x83\x85]....)|\x49\x89(?:\x04\x24|\x44\x24.|[\x45\x46\x47].|[\x06\x07]))"
    rb"(?:\x48\x83\xc4[\x08\x10\x18\x20\x28])?(?:[\x58-\x5b\x5d-\x5f]|\x41[\x58-\x5f])*\xc3"
)
"""mov %rax, displacement(%register); add $n, %rsp; pops; ret. A pattern: how a function ends that keeps a result.

The register is one that functions preserve (rbx, rbp, r12 to r15), so that it still has what it was given before one.
"""
LOAD_EAX = 0xB8
"""mov $imm32, %eax: how a C library names the system call that follows."""

# Results that a system call hands to the kernel's own restart logic, negated in rax; no program ever sees them.
ERESTARTSYS = 512
ERESTARTNOINTR = 513
"""Made again, whatever signal came between."""
ERESTARTNOHAND = 514
"""Made again, unless a handler runs: then EINTR."""
ERESTART_RESTARTBLOCK = 516
"""Goes on as restart_syscall(2), with the rest of its timeout; EINTR if a handler runs."""
RESTARTS = frozenset({ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK})

# struct rt_sigframe from `uc` on, which is where the stack pointer stands when rt_sigreturn is called.
UC_FLAGS = 0
UC_STACK = 16
UC_MCONTEXT = 40
UC_SEGMENTS = UC_MCONTEXT + 144
"""cs, gs, fs, ss, as 16-bit words, behind the 18 registers."""
UC_FPSTATE = UC_MCONTEXT + 184
UC_SIGMASK = UC_MCONTEXT + 256
UC_BYTES = UC_SIGMASK + 8
SIGCONTEXT_NAMES = (
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax", "rcx", "rsp"),
    *("rip", "eflags"),
)
"""struct sigcontext, its first 18 words."""

UC_FP_XSTATE = 1
UC_SIGCONTEXT_SS = 2
UC_STRICT_RESTORE_SS = 4

# The XSAVE area, standard format. Its legacy part has 48 bytes for software, where a signal frame says what it holds.
XSTATE_ALIGNMENT = 64
XSTATE_LEGACY_BYTES = 512
XSTATE_SOFTWARE = 464
"""struct _fpx_sw_bytes: magic1, extended_size (32 bit), xfeatures (64), xstate_size (32). GETREGSET has XCR0 here."""
XSTATE_HEADER = 512
"""xfeatures (64 bit): the components that are not in their initial state."""
FP_XSTATE_MAGIC1 = 0x4650_5853
FP_XSTATE_MAGIC2 = 0x4650_5845
XTILE_DATA = 1 << 18
"""AMX tiles: the one component that a thread has no room for until it first uses it."""
XTILE_DATA_BYTES = 8192
