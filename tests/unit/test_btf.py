"""BTF: members by name on a made-up kernel's types, and what is kept of it on a disk where others may write."""

from __future__ import annotations

import os
import struct

import pytest

from dontneed.errors import KernelLacks
from dontneed.kernel import btf

INT, POINTER, ARRAY, STRUCT, UNION, ENUM, TYPEDEF, FUNCTION, PROTOTYPE, VARIABLE = 1, 2, 3, 4, 5, 6, 8, 12, 13, 14


class Types:
    """BTF, type by type; `add` gives the number of each."""

    def __init__(self):
        self._names = b"\0"
        self._types = b""
        self._count = 0

    def name(self, text):
        """Where a name is."""
        if not text:
            return 0
        place = len(self._names)
        self._names += text.encode() + b"\0"
        return place

    def add(self, kind, name="", *, count=0, size=0, flag=0, behind=b""):
        """One type."""
        self._types += struct.pack("<III", self.name(name), flag << 31 | kind << 24 | count, size) + behind
        self._count += 1
        return self._count

    def struct(self, name, *members, kind=STRUCT, flag=0):
        """A struct of (name, type, bit) members."""
        behind = b"".join(struct.pack("<III", self.name(member), number, bit) for member, number, bit in members)
        return self.add(kind, name, count=len(members), size=64, flag=flag, behind=behind)

    def data(self):
        """The file."""
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self._types), len(self._types), len(self._names))
        return header + self._types + self._names


def kernel():
    """Types of every kind before the ones that are asked for, so that all of them must be passed over rightly."""
    types = Types()
    number = types.add(INT, "long", size=8, behind=bytes(4))
    types.add(ARRAY, behind=bytes(12))
    types.add(ENUM, "mode", count=3, behind=bytes(24))
    types.add(PROTOTYPE, count=2, behind=bytes(16))
    types.add(VARIABLE, "jiffies", behind=bytes(4))
    inner = types.struct("", ("count", number, 0), ("pgd", number, 192))
    renamed = types.add(TYPEDEF, "inner_t", size=inner)
    both = types.struct("", ("", renamed, 64), ("low", number, 0), kind=UNION)
    types.struct("mm_struct", ("first", number, 0), ("", both, 128))
    types.struct("task_struct", ("state", number, 32 << 24 | 8), ("mm", number, 512), flag=1)
    prototype = types.add(PROTOTYPE, count=1, behind=bytes(8))
    types.add(FUNCTION, "bpf_task_from_pid", size=prototype)
    types.add(TYPEDEF, "bpf_task_release", size=number)
    return types.data()


def test_members_are_found_by_name_also_in_parts_without_a_name():
    """mm_struct keeps all of its members in such a part; a typedef may stand before it."""
    pairs = [("mm_struct", "first"), ("mm_struct", "pgd"), ("mm_struct", "low"), ("task_struct", "mm")]
    layout = btf.parse_btf(kernel(), pairs, ())
    assert [layout.offset(*pair) for pair in pairs] == [0, 16 + 8 + 24, 16, 64]


def test_where_a_struct_has_bit_fields_the_width_is_not_a_part_of_the_place():
    """The upper byte of the number is how many bits it has."""
    assert btf.parse_btf(kernel(), [("task_struct", "state")], ()).offset("task_struct", "state") == 1


def test_functions_are_found_by_name_and_nothing_else_of_that_name():
    """A typedef may be called like a function that the kernel does not have."""
    layout = btf.parse_btf(kernel(), (), ("bpf_task_from_pid", "bpf_task_release", "bpf_task_from_vpid"))
    assert layout.functions == {"bpf_task_from_pid": 12}


def test_a_member_that_was_renamed_is_found_by_either_name():
    """As start_boottime was, once."""
    layout = btf.parse_btf(kernel(), [("task_struct", "mm"), ("task_struct", "memory")], ())
    assert layout.offset("task_struct", "memory", "mm") == 64


def test_a_member_that_is_not_there_is_what_the_kernel_lacks():
    """And the message says which."""
    layout = btf.parse_btf(kernel(), [("task_struct", "nothing"), ("no_struct", "mm")], ())
    with pytest.raises(KernelLacks, match="task_struct of this kernel has no nothing"):
        layout.offset("task_struct", "nothing")
    with pytest.raises(KernelLacks, match="no_struct"):
        layout.offset("no_struct", "mm")


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", bytes(100)])
def test_what_is_no_btf_is_refused(data):
    """An empty file, a torn one, another one."""
    with pytest.raises(KernelLacks, match="BTF"):
        btf.parse_btf(data, (), ())


def test_the_build_id_is_found_among_the_notes():
    """Others may stand before it."""
    other = struct.pack("<III", 6, 4, 1) + b"Linux\0\0\0" + bytes(4)
    build = struct.pack("<III", 4, 3, 3) + b"GNU\0" + b"\x01\x02\xff\0"
    assert btf.parse_build_id(other + build) == "0102ff"
    assert btf.parse_build_id(other) == ""
    assert btf.parse_build_id(b"") == ""


# What is kept


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A kernel whose BTF is read from a file, and a home of our own to keep things in; nobody may write there."""
    source, notes = tmp_path / "vmlinux", tmp_path / "notes"
    source.write_bytes(kernel())
    notes.write_bytes(struct.pack("<III", 4, 2, 3) + b"GNU\0" + b"\xab\xcd\0\0")
    monkeypatch.setattr(btf, "PATH", str(source))
    monkeypatch.setattr(btf, "NOTES", str(notes))
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path


def ask():
    """What is asked in these tests."""
    return btf.read_layout([("task_struct", "mm"), ("task_struct", "nothing")], ("bpf_task_from_pid",))


def test_what_was_found_once_is_not_looked_up_again(home):
    """BTF may be gone the second time; what the kernel does not have is remembered as well."""
    first = ask()
    (home / "vmlinux").unlink()
    second = ask()
    assert second.offsets == first.offsets == {("task_struct", "mm"): 64}
    assert second.functions == first.functions
    kept = home / "cache" / "dontneed" / "kernel-abcd.txt"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert os.listdir(kept.parent) == [kept.name]


def test_another_build_has_a_file_of_its_own(home):
    """The same version may be built twice, with other offsets."""
    ask()
    (home / "notes").write_bytes(struct.pack("<III", 4, 2, 3) + b"GNU\0" + b"\x00\x01\0\0")
    ask()
    assert sorted(os.listdir(home / "cache" / "dontneed")) == ["kernel-0001.txt", "kernel-abcd.txt"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "{}\n", "task_struct.mm\n", "task_struct.mm 64 64\n", "task_struct.mm 64\n", "task_struct.nothing -\n"],
)
def test_a_file_that_is_torn_or_says_something_else_is_written_anew(home, content):
    """Whatever happened to it, the kernel itself knows."""
    ask()
    kept = home / "cache" / "dontneed" / "kernel-abcd.txt"
    kept.write_text(content)
    assert ask().offset("task_struct", "mm") == 64
    assert "task_struct.mm 64\n" in kept.read_text()


def test_a_file_with_words_in_the_place_of_numbers_is_not_believed(home):
    """Of the right form, and of nobody's use."""
    ask()
    kept = home / "cache" / "dontneed" / "kernel-abcd.txt"
    kept.write_text(kept.read_text().replace("mm 64", "mm True"))
    assert ask().offset("task_struct", "mm") == 64


@pytest.mark.parametrize("changed", ["file", "directory", "link"])
def test_what_others_may_write_to_is_not_read(home, changed):
    """Root would otherwise take offsets from anybody."""
    ask()
    kept = home / "cache" / "dontneed" / "kernel-abcd.txt"
    kept.write_text(kept.read_text().replace("mm 64", "mm 4"))
    if changed == "file":
        kept.chmod(0o666)
    elif changed == "directory":
        kept.parent.chmod(0o777)
    else:
        kept.rename(home / "elsewhere")
        kept.symlink_to(home / "elsewhere")
    assert ask().offset("task_struct", "mm") == 64


def test_a_home_that_is_not_ours_stays_as_it_is(home):
    """As with sudo, which may leave HOME to another user; the answer is the same."""
    (home / "cache").chmod(0o777)
    assert ask().offset("task_struct", "mm") == 64
    assert os.listdir(home / "cache") == []


def test_a_kernel_without_a_build_id_is_looked_up_each_time(home):
    """Nothing would tell what was kept of it from what was kept of the next one."""
    (home / "notes").write_bytes(b"")
    assert ask().offset("task_struct", "mm") == 64
    assert os.listdir(home / "cache") == []
