"""`measure`: what a block of code did to the memory of a process."""

from __future__ import annotations

from dontneed.errors import UsageError
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import Counters, read_counters
from dontneed.observe.address_space import AddressSpace, look
from dontneed.observe.difference import Difference, difference_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

    from dontneed.observe.mapping import Mapping


class Measurement:
    """What changed in a process across a block; read it after the block. Signed bytes and counts: after less before.

    The counters are read last before the block and first after it, so that looking disturbs them least; what looking
    itself allocates for the first time is in them all the same.

    Attributes:
        before, after: the two looks; None until they are taken.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self.before: AddressSpace | None = None
        self.after: AddressSpace | None = None
        self._counters: list[Counters] = []

    def __enter__(self) -> Self:
        self.before, self.after = look(self._pid), None
        self._counters = [_counters_of(self._pid)]
        return self

    def __exit__(self, *_error: object) -> None:
        self._counters.append(_counters_of(self._pid))
        self.after = look(self._pid)

    @property
    def difference(self) -> Difference:
        """Mappings gone, come and changed, and every counter's change.

        Raises:
            UsageError: the block has not ended.
        """
        if self.before is None or self.after is None:
            msg = "a measurement has no result until its block has ended"
            raise UsageError(msg, hint="with dontneed.measure() as measured: ...; then measured.difference")
        return difference_of(self.before.mappings, self.after.mappings, *self._counters)

    @property
    def rss_bytes(self) -> int:
        """Change of RSS, all kinds."""
        return self.difference.counters.rss_bytes

    @property
    def rss_anon_bytes(self) -> int:
        """Change of anonymous RSS."""
        return self.difference.counters.rss_anon_bytes

    @property
    def rss_file_bytes(self) -> int:
        """Change of RSS that files back."""
        return self.difference.counters.rss_file_bytes

    @property
    def rss_shmem_bytes(self) -> int:
        """Change of RSS of shared memory."""
        return self.difference.counters.rss_shmem_bytes

    @property
    def swap_bytes(self) -> int:
        """Change of what is swapped out."""
        return self.difference.counters.swap_bytes

    @property
    def minor_faults(self) -> int:
        """Page faults that needed no input."""
        return self.difference.counters.minor_faults

    @property
    def major_faults(self) -> int:
        """Page faults that waited for input."""
        return self.difference.counters.major_faults

    @property
    def come(self) -> Sequence[Mapping]:
        """Mappings that are new."""
        return self.difference.come

    @property
    def gone(self) -> Sequence[Mapping]:
        """Mappings that are no more."""
        return self.difference.gone


def measure(pid: int | None = None) -> Measurement:
    """Measure what a block of code does to the memory of a process.

    Args:
        pid: whose; None is the calling process.
    Returns:
        A context manager; after its block `rss_bytes`, `rss_anon_bytes`, `minor_faults`, `come`, … hold the change.
    Raises:
        On entering and leaving: as `look`.
    Kernel:
        /proc/PID/status, stat, maps, pagemap; proc(5).
    """
    return Measurement(pid)


def _counters_of(pid: int | None) -> Counters:
    with ProcessDirectory(pid) as process:
        return read_counters(process)
