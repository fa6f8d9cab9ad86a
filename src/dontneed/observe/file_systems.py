"""Which file system the files of a process's mappings are on, and whether a clean page of them can be read again.

A page that is in memory only can go nowhere (tmpfs, ramfs, hugetlbfs) but to swap; one of a file system across a
network, or in another process (FUSE), comes back if and when somebody answers; with DAX there is no page at all. So
file systems on disks of this machine are listed by name, and every other is left alone.

Kernel:
    /proc/PID/mountinfo since 2.6.26; proc_pid_mountinfo(5). It names file systems by device, as maps does.
"""

from __future__ import annotations

from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.procfs import ProcessDirectory

ON_DISKS = frozenset(
    (
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "jfs", "reiserfs", "nilfs2", "ntfs3"),
        *("vfat", "msdos", "exfat", "hfsplus", "udf", "iso9660", "squashfs", "erofs", "cramfs", "romfs"),
        "overlay",  # of containers; its layers mostly are on one of these
    )
)
"""File systems whose clean pages are read from a disk again, or from a layer that is on one."""


class FileSystem(Record):
    """A mounted file system.

    Attributes:
        kind: as `ext4`.
        dax: its files are mapped without pages of the page cache.
    """

    kind: str
    dax: bool

    @property
    def reads_again(self) -> bool:
        """Whether a clean page that went comes back from a disk of this machine."""
        return self.kind in ON_DISKS and not self.dax


def read_file_systems(process: ProcessDirectory) -> dict[str, FileSystem]:
    """The file systems by device, spelled as in maps (`fe:00`): those that the process sees, then those that we see.

    Older kernels show a file of an overlay with the device of its layer, which a process in a container does not see.

    Raises:
        NotPermitted, ProcessGone: as `ProcessDirectory.read`.
    """
    with open("/proc/self/mountinfo", "rb") as file:
        ours = parse_mountinfo(file.read())
    return {**ours, **parse_mountinfo(process.read("mountinfo"))}


def parse_mountinfo(text: bytes) -> dict[str, FileSystem]:
    """The file systems in the text of a mountinfo file, by device as maps spells it."""
    found = {}
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        where, _, how = line.partition(" - ")
        major, minor = map(int, where.split()[2].split(":"))
        kind, *_, options = how.split()
        dax = any(option in ("dax", "dax=always") for option in options.split(","))
        found[f"{major:02x}:{minor:02x}"] = FileSystem(kind, dax)
    return found
