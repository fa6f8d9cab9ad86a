"""On what kind of file system an open file is, by the number that each of them has.

Kernel:
    include/uapi/linux/magic.h; statfs(2). Unlike a device number it says `overlay` and `btrfs` whatever lies below.
"""

from __future__ import annotations

from ctypes import addressof, c_int, c_long, c_void_p, create_string_buffer

from dontneed.kernel import libc
from dontneed.kernel.libc import foreign

OVERLAY = 0x794C7630
IN_MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}
"""Their pages are the file itself."""

WITHOUT_PAGES = {
    0x9FA0: "proc",
    0x62656572: "sysfs",
    0x27E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x73636673: "securityfs",
    0x62656570: "configfs",
    0xCAFE4A11: "bpf",
    0x6165676C: "pstore",
    0xDE5E81E4: "efivarfs",
    0x65735543: "fusectl",
    0x19800202: "mqueue",
    0x1CD1: "devpts",
    0x42494E4D: "binfmt_misc",
    0xF97CFF8C: "selinuxfs",
    0x67596969: "rpc_pipefs",
    0x6E667364: "nfsd",
    0x6E736673: "nsfs",
    0x958458F6: "hugetlbfs",
}
"""What they show is made when it is read, some of it does things when it is merely opened, and none is in the page
cache; the huge pages of hugetlbfs are the pool's."""

_f_type = c_long
"""The first field of struct statfs."""
_STRUCT_BYTES = 256
"""More than it has on any architecture."""
_fstatfs = foreign("fstatfs", c_int, c_int, c_void_p)


def file_system_number(fd: int) -> int:
    """The number of the file system that an open file is on.

    Raises:
        OSError: as fstatfs(2).
    """
    answer = create_string_buffer(_STRUCT_BYTES)
    libc.check(_fstatfs(fd, addressof(answer)), "fstatfs")
    return _f_type.from_buffer(answer).value & 0xFFFFFFFF
