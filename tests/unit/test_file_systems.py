"""Which mapped files can be read from a disk again, from the texts of the kernel."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from dontneed.observe.file_systems import FileSystem, parse_mountinfo
from dontneed.observe.subject import Row
from dontneed.reasons import clean_file

MOUNTINFO = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard,errors=remount-ro
31 27 259:3 / /data rw,noatime - xfs /dev/nvme0n1p3 rw,attr2,dax=always,inode64
35 27 0:44 / /with\040space rw shared:7 master:2 - fuse.sshfs me@there:/ rw,user_id=0
36 27 0:45 / /merged rw,relatime - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
37 27 0:46 / /mem rw - tmpfs tmpfs rw,size=4k
38 27 0:47 / /old rw - ext4 /dev/pmem0 rw,dax
39 27 1048:1048575 / /far rw - btrfs /dev/sdz rw,subvol=/
"""


def test_file_systems_are_named_by_device_as_maps_spells_it():
    """In hexadecimal, two digits at least; mountinfo has decimals."""
    found = parse_mountinfo(MOUNTINFO)
    assert found["fe:00"] == FileSystem("ext4", dax=False)
    assert found["103:03"] == FileSystem("xfs", dax=True)
    assert found["00:2c"] == FileSystem("fuse.sshfs", dax=False)
    assert found["418:fffff"] == FileSystem("btrfs", dax=False)
    assert found["00:2f"].dax


def test_only_what_is_on_a_disk_is_read_again():
    """Memory, networks, other processes and DAX have no page that comes back by itself."""
    found = parse_mountinfo(MOUNTINFO)
    assert sorted(device for device, system in found.items() if system.reads_again) == ["00:2d", "418:fffff", "fe:00"]


@pytest.fixture
def subject(monkeypatch):
    """A process with mappings of files, seen by root."""
    monkeypatch.setattr(clean_file, "read_file_systems", lambda _process: parse_mountinfo(MOUNTINFO))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    rows = []
    protected = SimpleNamespace(spans=clean_file.Spans([(0x9000, 0xA000)]))
    return SimpleNamespace(process=None, rows=lambda *_kinds: rows, protected=protected, listed=rows)


def mapped(subject, start, perms, device):
    subject.listed.append(Row(start, start + 0x2000, perms, "/file", "file", device, 1))


def test_private_mappings_and_shared_ones_that_are_read_can_go(subject):
    """Of files on disks; what is locked, or otherwise protected, is taken out."""
    mapped(subject, 0x1000, "r-xp", "fe:00")
    mapped(subject, 0x4000, "rw-p", "00:2d")
    mapped(subject, 0x8000, "r--s", "fe:00")
    spans, refused = clean_file._eligible(subject)
    assert spans == clean_file.Spans([(0x1000, 0x3000), (0x4000, 0x6000), (0x8000, 0x9000)])
    assert refused == []


def test_what_cannot_go_is_said_with_how_many_mappings_it_is(subject):
    """By file system, so that one can tell which files are meant."""
    mapped(subject, 0x1000, "rw-s", "fe:00")
    for start in (0x10000, 0x20000):
        mapped(subject, start, "r--p", "00:2c")
    mapped(subject, 0x30000, "r--p", "103:03")
    mapped(subject, 0x40000, "r--p", "00:99")
    spans, refused = clean_file._eligible(subject)
    assert not spans
    assert [sentence.partition(":")[0] for sentence in refused] == [
        "1 mapping of files that are shared and written",
        "2 mappings of files on fuse.sshfs",
        "1 mapping of files on xfs with DAX",
        "1 mapping of files on a file system that is not mounted here",
    ]


def test_files_of_others_are_not_offered_to_a_user(subject, monkeypatch, tmp_path):
    """The kernel would take the call, and do nothing."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    subject.listed.append(Row(0x1000, 0x3000, "r--p", str(tmp_path), "file", "fe:00", 1))
    mapped(subject, 0x4000, "r--p", "fe:00")
    spans, refused = clean_file._eligible(subject)
    assert not spans
    assert refused == ["2 mappings of files of other users: the kernel pages out only what you own or may write"]
