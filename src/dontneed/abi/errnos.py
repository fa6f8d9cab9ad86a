"""The errors of Linux by number: those of other systems differ, and the model answers as Linux wherever it runs.

Kernel:
    include/uapi/asm-generic/errno-base.h and errno.h; all architectures but alpha, mips, parisc and sparc share them.
"""

from __future__ import annotations

EPERM = 1
EBADF = 9
EAGAIN = 11
ENOMEM = 12
EACCES = 13
EFAULT = 14
EBUSY = 16
ENODEV = 19
EINVAL = 22
ENOSYS = 38
EOPNOTSUPP = 95
