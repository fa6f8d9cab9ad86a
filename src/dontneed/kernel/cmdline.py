"""/proc/PID/cmdline: the words a process was started with.

Kernel:
    fs/proc/base.c proc_pid_cmdline_read(); a process may overwrite them, and a kernel thread has none.
"""

from __future__ import annotations

from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity


def read_command_line(pid: int) -> str:
    """The words joined by spaces; the command in brackets where there are none, as ps shows it."""
    with ProcessDirectory(pid) as process:
        words = process.read("cmdline").rstrip(b"\0").split(b"\0")
        if words == [b""]:
            return f"[{read_identity(process).command}]"
    return b" ".join(words).decode("utf-8", "surrogateescape")
