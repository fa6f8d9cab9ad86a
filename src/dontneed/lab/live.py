"""The live machine: this computer's kernel, asked through a process of its own that we start, watch and end.

The process is watched from outside, and only while it sleeps in wait of the next word: nothing moves while its procfs
files are read. What it runs is `lab/child.py`, isolated (`-I`) from the directory and the environment that it is
started in, and with the dontneed that started it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import dontneed
from dontneed.abi.advice import Advice
from dontneed.errors import DontneedError, KernelLacks, NotPermitted, ProcessGone
from dontneed.kernel.build import parse_version, read_build_option
from dontneed.kernel.pagemap import read_entries
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.lab.child import PACKET_BYTES
from dontneed.lab.machine import PRIVATE_ANONYMOUS, SHARED_ANONYMOUS, Faults, Kernel, Reading, Region
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Self

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from dontneed.lab.child import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)
_SHARED = {PRIVATE_ANONYMOUS: False, SHARED_ANONYMOUS: True}
"""What can be mapped, and whether it is MAP_SHARED."""

_PATIENCE_SECONDS = 60.0
"""No word takes so long; a process that does not answer is stuck."""
_FAREWELL_SECONDS = 10.0
_GLANCE_SECONDS = 0.0005
_REHEARSALS = 2
_REHEARSED_PAGES = 1024


class LiveMachine:
    """This computer, and its kernel."""

    name = "live"

    @property
    def kernel(self) -> Kernel:
        """The kernel that runs."""
        uname = os.uname()
        return Kernel(
            release=uname.release,
            version=parse_version(uname.release),
            architecture=uname.machine,
            pt_reclaim=read_build_option("PT_RECLAIM"),
        )

    def start(self) -> LiveProcess:
        """A fresh process, rehearsed: its own memory has grown to what the words need, and grows no more.

        Raises:
            NotPermitted: this user may not start one.
            ProcessGone: it ended at once; the message says how.
        """
        process = LiveProcess(*_start_child())
        try:
            _rehearse(process)
        except BaseException:  # Ctrl-C as well: no process of ours may outlive its making
            process.end()
            raise
        return process


class LiveProcess:
    """A process of the live machine, whose words are those of `machine.Process`.

    Attributes:
        pid: its process id.
    """

    def __init__(self, channel: socket.socket, child: subprocess.Popen[bytes] | None = None) -> None:
        channel.settimeout(_PATIENCE_SECONDS)
        self._channel = channel
        self._child = child
        with ExitStack() as held:  # in the order of use: the end of it comes in the reverse order
            if child is not None:
                held.callback(_see_out, child)
            held.callback(_say_goodbye, channel)
            self.pid = int(self._hear())
            self._directory = held.enter_context(ProcessDirectory(self.pid))
            self._held = held.pop_all()

    def map(self, name: str, pages: int, *, kind: str = PRIVATE_ANONYMOUS) -> Region:
        """Map fresh memory between fences."""
        if kind not in _SHARED:
            msg = f"the live machine maps no {kind} memory"
            raise KernelLacks(msg, hint=f"it maps {' and '.join(_SHARED)} memory")
        size_bytes = pages * PAGE_BYTES
        return Region(name, self._tell("map", size_bytes, _SHARED[kind]), size_bytes)

    def unmap(self, region: Region) -> None:
        """munmap(2)."""
        self._tell("unmap", region.start, region.size_bytes)

    def write(self, region: Region, byte: int) -> Faults:
        """memset(3)."""
        return Faults(*self._tell("write", region.start, region.size_bytes, byte))

    def read(self, region: Region) -> Reading:
        """Read every byte."""
        faults, values = self._tell("read", region.start, region.size_bytes)
        return Reading(tuple(values), Faults(*faults))

    def advise(self, region: Region, advice: Advice) -> int:
        """madvise(2); the errno or 0."""
        return int(self._tell("advise", region.start, region.size_bytes, int(advice)))

    def lock(self, region: Region) -> int:
        """mlock(2); the errno or 0."""
        return int(self._tell("lock", region.start, region.size_bytes))

    def unlock(self, region: Region) -> int:
        """munlock(2); the errno or 0."""
        return int(self._tell("unlock", region.start, region.size_bytes))

    def fork(self) -> LiveProcess:
        """A child of this process, with a channel of its own."""
        ours, theirs = _channel()
        with theirs:
            self._tell("fork", fd=theirs.fileno())
        child = LiveProcess(ours)
        for process in (self, child):  # the interpreter's own pages are copied on write now, before anyone counts
            _rehearse(process)
        return child

    def smaps(self) -> bytes:
        """Its smaps, while it sleeps."""
        return self._at_rest().read("smaps")

    def status(self) -> bytes:
        """Its status, while it sleeps."""
        return self._at_rest().read("status")

    def pagemap(self, region: Region) -> bytes:
        """Its pagemap entries for `region`, while it sleeps."""
        fd = self._at_rest().open("pagemap")
        try:
            return read_entries(fd, region.start, region.end).tobytes()
        finally:
            os.close(fd)

    def end(self) -> None:
        """Close the channel, upon which the process ends, and see that it does."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _tell(self, word: str, *numbers: int, fd: int | None = None) -> Any:
        packet = json.dumps([word, *numbers]).encode("ascii")
        try:
            if fd is None:
                self._channel.send(packet)
            else:
                socket.send_fds(self._channel, [packet], [fd])
        except ConnectionError:
            raise self._gone() from None
        return self._hear()

    def _hear(self) -> Any:
        try:
            packet = self._channel.recv(PACKET_BYTES)
        except ConnectionError:
            packet = b""
        except TimeoutError:
            msg = f"the lab's process has not answered for {_PATIENCE_SECONDS:.0f} s"
            raise DontneedError(msg, hint="was it stopped, or is the machine short of memory?") from None
        if not packet:
            raise self._gone()
        answer = json.loads(packet)
        if "error" in answer:
            msg = f"the lab's process was refused memory: {answer['error']}"
            raise DontneedError(msg, hint="`ulimit -v`, vm.overcommit_memory and a memory cgroup limit it")
        return answer["value"]

    def _gone(self) -> ProcessGone:
        """Why the process does not answer any more, as far as its parent can know."""
        if self._child is None:
            return ProcessGone("a forked process of the lab ended before its time")
        how, last_words = _see_out(self._child)
        return ProcessGone(f"the lab's process ended {how}{f': {last_words}' if last_words else ''}")

    def _at_rest(self) -> ProcessDirectory:
        """The process's directory, once it sleeps in wait of the next word."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while read_identity(self._directory).state != "S":
            if time.monotonic() > deadline:
                msg = f"the lab's process {self.pid} does not come to rest"
                raise DontneedError(msg, hint="was it stopped from outside?")
            time.sleep(_GLANCE_SECONDS)
        return self._directory


def _rehearse(process: LiveProcess) -> None:
    """Do every word that needs memory of the interpreter, more than once, on memory that is gone afterwards."""
    for _ in range(_REHEARSALS):
        region = process.map("rehearsal", _REHEARSED_PAGES)
        process.write(region, 1)
        process.advise(region, Advice.DONTNEED)
        process.read(region)
        process.unmap(region)


# The process as its parent sees it


def _channel() -> tuple[socket.socket, socket.socket]:
    """Two ends of a channel that keeps packets apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _start_child() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """An interpreter that serves the other end of the channel that is returned with it."""
    package_parent = os.path.dirname(next(iter(dontneed.__path__)))
    ours, theirs = _channel()
    with theirs:
        arguments = [package_parent, str(theirs.fileno()), str(os.getpid())]
        try:
            child = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-I", "-c", _PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        except OSError as error:
            ours.close()
            msg = f"the lab cannot start a process of its own: {sys.executable}: {error.strerror}"
            if isinstance(error, PermissionError):
                raise NotPermitted(msg, hint="it runs the Python that runs this; may this user run it?") from None
            raise DontneedError(msg, hint="is there memory, and room for one more process (`ulimit -u`)?") from None
    return ours, child


def _say_goodbye(channel: socket.socket) -> None:
    """Close a channel, and wait for the other end to be closed: a process does that after it gave its memory back."""
    with channel:
        channel.settimeout(_FAREWELL_SECONDS)
        try:
            channel.shutdown(socket.SHUT_WR)
            channel.recv(PACKET_BYTES)
        except OSError:  # it is gone already, or stuck; whoever started it sees to it
            return


def _see_out(child: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Wait for a process that has been told to end, and kill it if it does not; how it ended, and its last words."""
    try:
        code = child.wait(_FAREWELL_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        code = child.wait()
    last_words = b""
    if child.stderr is not None and not child.stderr.closed:
        with child.stderr:
            last_words = (child.stderr.read().splitlines() or [b""])[-1]
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return how, last_words.decode("utf-8", "replace")
