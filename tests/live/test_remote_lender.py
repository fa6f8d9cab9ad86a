"""Which stopped threads can be borrowed: never one below whose stack pointer something is alive."""

from __future__ import annotations

import pytest

from dontneed.errors import TargetRefused, Unreadable
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.remote import lender
from dontneed.remote.stop import Stop

from .native_target import running

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_command("cc")]


def test_a_thread_on_a_stack_within_its_own_is_not_borrowed(tmp_path):
    """Its struct pthread proves the block; the frames that wait below its small stack would be written over."""
    with running(tmp_path, "odd_stacks") as target, ProcessDirectory(target.pid) as process:
        target.wait_until_asleep()
        roles = {name: thread for name, (thread,) in target.named().items()}
        with Stop(process) as stop:
            why = {name: lender.why_not(stop, thread, stop.registers[thread]) for name, thread in roles.items()}
        assert target.tell("end") == ["errors 0"]
    nested = [reason for name, reason in why.items() if name.startswith("nested")]
    assert nested
    assert all("perhaps it is on a small stack within its own" in reason for reason in nested)
    assert why["plain"] == ""


def test_a_thread_whose_stack_has_gone_is_not_borrowed(tmp_path, monkeypatch):
    """Another one that replaces the program ends it while we hold it: the refusal says what could not be read."""

    def unmapped(pid, address, length):
        msg = f"{length} bytes at {address:#x} of process {pid} cannot be reached"
        raise Unreadable(msg)

    with running(tmp_path, "odd_stacks") as target, ProcessDirectory(target.pid) as process:
        target.wait_until_asleep()
        with Stop(process) as stop, monkeypatch.context() as patched:
            patched.setattr(lender, "read_memory", unmapped)
            with pytest.raises(TargetRefused, match=r"could run a system call for us: .* cannot be reached"):
                lender.choose_lender(stop)
        assert target.tell("end") == ["errors 0"]
