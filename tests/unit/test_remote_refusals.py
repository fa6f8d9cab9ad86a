"""Why a process is not acted on, told by what its status and our rights say."""

from __future__ import annotations

import os

import pytest

from dontneed.errors import NotPermitted, ProcessGone, TargetRefused
from dontneed.kernel.ptrace import explain_refusal
from dontneed.remote import refusals


class FakeProcess:
    """A process that says this of itself."""

    pid = 1 << 21

    def __init__(self, *, program=b"\x7fELF\x02\x01", **status):
        words = {"State": "S (sleeping)", "Threads": "1", "VmSize": "100 kB", "TracerPid": "0", "Seccomp": "0"}
        self._status = words | status
        self._program = program

    def read(self, name):
        """Its status, of whichever thread."""
        assert name.endswith("status")
        return "".join(f"{key}:\t{value}\n" for key, value in self._status.items() if value).encode()

    def open(self, name):
        """Its program."""
        assert name == "exe"
        reads, writes = os.pipe()
        os.write(writes, self._program)
        os.close(writes)
        return reads


def test_an_ordinary_process_is_not_refused():
    """Nothing is in the way."""
    refusals.before_stop(FakeProcess())
    assert refusals.of_injection_by(FakeProcess(), 1) == ""


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ({"TracerPid": "1"}, "traced by process 1"),
        ({"VmSize": ""}, "no memory of its own"),
        ({"State": "Z (zombie)", "VmSize": "", "Threads": "3"}, "main thread"),
        ({"program": b"\x7fELF\x01\x01"}, "64-bit"),
        ({"program": b"#!/bin/sh"}, "64-bit"),
    ],
)
def test_each_refusal_has_its_own_sentence_and_hint(status, message):
    """What a person can do about it differs."""
    with pytest.raises(TargetRefused, match=message) as refused:
        refusals.before_stop(FakeProcess(**status))
    assert refused.value.hint


def test_a_zombie_has_ended():
    """There is nothing to refuse."""
    with pytest.raises(ProcessGone, match="waits for its parent"):
        refusals.before_stop(FakeProcess(State="Z (zombie)", VmSize=""))


def test_a_proc_that_is_not_ours_is_not_trusted(monkeypatch):
    """Its numbers belong to other processes."""
    monkeypatch.setattr(refusals.os, "readlink", lambda _: "1")
    with pytest.raises(NotPermitted, match="another pid namespace"):
        refusals.before_stop(FakeProcess())


def test_shadow_stacks_and_strict_seccomp_forbid_to_run_anything():
    """They end the process for what we would have it do."""
    assert "shadow stack" in refusals.of_injection_by(FakeProcess(x86_Thread_features="shstk wrss"), 1)
    assert refusals.of_injection_by(FakeProcess(x86_Thread_features=""), 1) == ""
    assert "strict" in refusals.of_injection_by(FakeProcess(Seccomp="1"), 1)


@pytest.mark.parametrize(
    ("owner", "uid", "yama", "privileged", "why", "hint"),
    [
        (0, 1000, 0, False, "belongs to uid 0", "sudo"),
        (0, 1000, 1, False, "belongs to uid 0", "sudo"),
        (1000, 1000, 1, False, "its own children only", "ptrace_scope=0"),
        (1000, 1000, 2, False, "ptrace_scope is 2", "sudo"),
        (1000, 1000, 3, False, "lets nobody trace", "reboot"),
        (0, 0, 3, True, "lets nobody trace", "reboot"),
        (0, 0, 0, True, "does not reach", "container"),
        (1000, 1000, 0, False, "not dumpable", "sudo"),
    ],
)
def test_eperm_is_explained_by_what_is_missing(owner, uid, yama, privileged, why, hint):
    """Yama, the owner, a capability, a namespace: each leads somewhere else."""
    explained = explain_refusal(owner, uid, yama, privileged=privileged)
    assert why in explained[0]
    assert hint in explained[1]
