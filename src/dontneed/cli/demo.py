"""The whole story on a real service, on this machine, in under half a minute.

A cache of JSON documents grows, and shrinks again; its RSS does not. The usual cures, gc.collect() and malloc_trim(0),
achieve little. A plan says what could go and why that is safe; a release does it, proven by frame, while the service
goes on answering; and its data is what it was.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time

from dontneed.errors import DontneedError
from dontneed.records import Record
from dontneed.units import MIB, format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

    from dontneed.observe.address_space import AddressSpace
    from dontneed.reclaim.plan import Plan
    from dontneed.reclaim.receipt import ReleaseReceipt

    Tell = Callable[[Iterable[str]], None]

_TOP = 5
_DOCUMENTS = 250_000
_DOCUMENT_BYTES = 1700
"""Of memory, about, when all of them are there."""
_BETWEEN_REQUESTS_SECONDS = 0.002
_QUIET_REQUESTS = 200


class Story(Record):
    """What happened.

    Attributes:
        look: the service, when most of its documents had expired.
        cured: its RSS after gc.collect() and malloc_trim(0), in bytes.
        plan: what could go then.
        receipt: what went.
        quiet: seconds that each request took before the release.
        meanwhile: the same while it ran.
        intact: the digest over all documents is what it was before.
    """

    look: AddressSpace
    cured: int
    plan: Plan
    receipt: ReleaseReceipt
    quiet: tuple[float, ...]
    meanwhile: tuple[float, ...]
    intact: bool


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed demo`."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the look, the plan and the receipt, for programs")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed demo`; the exit code."""
    if arguments.show_code:
        _tell([_CODE])
        return 0
    story = _happen(_tell if not arguments.json else _keep_quiet)
    if arguments.json:
        _tell([_document(story)])
    return story.receipt.exit_code if story.intact else 1


class Service:
    """The service, running. A context manager; it ends with the block."""

    def __init__(self, documents: int) -> None:
        program = os.path.join(os.path.dirname(__file__), "demo_service.py")
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", program, str(documents)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self.said = self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def ask(self, question: str) -> str:
        """One request; its answer."""
        if self._process.stdin is None:
            return ""
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return self._line()

    def time_requests(self, until: threading.Event, most: int | None = None) -> list[float]:
        """Ask again and again until told to stop, or `most` times; how long each answer took."""
        took: list[float] = []
        while not until.is_set() and (most is None or len(took) < most):
            began = time.perf_counter()
            self.ask("get")
            took.append(time.perf_counter() - began)
            time.sleep(_BETWEEN_REQUESTS_SECONDS)
        return took

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            msg = "the service of the demo has ended"
            raise DontneedError(msg, hint="is there memory enough? its last words are above")
        return line.strip()


class Client(threading.Thread):
    """Asks the service for documents while something else happens."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._enough = threading.Event()
        self._took: list[float] = []

    def run(self) -> None:
        """Ask until told to stop."""
        self._took = self._service.time_requests(self._enough)

    def finish(self) -> list[float]:
        """Stop asking; how long each answer took, in seconds."""
        self._enough.set()
        self.join()
        return self._took


def _happen(tell: Tell) -> Story:
    """Let it happen, and tell it chapter by chapter."""
    say = _Teller(tell)
    with Service(_affordable()) as service:
        before = service.ask("digest")
        look = say.look(service)
        cured = say.cure(service)
        planned = say.plan(service)
        quiet = service.time_requests(threading.Event(), _QUIET_REQUESTS)
        client = Client(service)
        client.start()
        receipt = planned.release()
        meanwhile = client.finish()
        intact = service.ask("digest") == before
    story = Story(look, cured, planned, receipt, tuple(quiet), tuple(meanwhile), intact)
    say.release(story)
    return story


class _Teller:
    """Tells the chapters of the story as they happen."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def look(self, service: Service) -> AddressSpace:
        """The service, and what it holds."""
        from dontneed.observe.address_space import look
        from dontneed.report.text import format_address_space

        space = look(service.pid)
        self._chapter(1, f"A JSON cache: {service.said}, and its RSS", f"dontneed look {service.pid}")
        self._say(format_address_space(space, top=_TOP))
        return space

    def cure(self, service: Service) -> int:
        """The usual cures, and what they achieve."""
        from dontneed.kernel.procfs import ProcessDirectory
        from dontneed.kernel.status import read_counters

        with ProcessDirectory(service.pid) as process:
            before = read_counters(process).rss_bytes
            service.ask("cure")
            after = read_counters(process).rss_bytes
        self._chapter(2, "The usual cures", "gc.collect(); ctypes.CDLL(None).malloc_trim(0)")
        self._say([f"RSS {format_bytes(before)} → {format_bytes(after)}: {_percent(before - after, before)} less"])
        return after

    def plan(self, service: Service) -> Plan:
        """What could go."""
        from dontneed.reclaim.plan import plan
        from dontneed.report.release import format_plan

        planned = plan(service.pid)
        self._chapter(3, "What could go, and why that is safe", f"dontneed plan {service.pid}")
        self._say(format_plan(planned))
        return planned

    def release(self, story: Story) -> None:
        """What went, while it served; and that nothing is lost."""
        from dontneed.report.release import format_release

        self._chapter(4, "Give it back, while the service serves", f"dontneed release {story.plan.pid}")
        self._say(format_release(story.receipt))
        self._chapter(5, "What the service noticed", "the same requests as before, meanwhile")
        self._say(_noticed(story))
        self._tell_lines(["", _closing(story)])

    def _chapter(self, number: int, title: str, call: str) -> None:
        rule = "─" if "utf" in (sys.stdout.encoding or "").lower() else "-"
        self._tell_lines(["", f"{number}. {title}", rule * 72, f"   {call}", ""][number == 1 :])

    def _say(self, lines: Iterable[str]) -> None:
        self._tell_lines(f"   {line}".rstrip() for line in lines)

    def _tell_lines(self, lines: Iterable[str]) -> None:
        self._tell(lines)


def _noticed(story: Story) -> list[str]:
    """What the service's clients saw of the release, and whether its data is what it was."""
    meanwhile, before = (
        f"half within {format_seconds(statistics.median(took))}, the slowest in {format_seconds(max(took))}"
        for took in (story.meanwhile, story.quiet)
    )
    digest = "is what it was before" if story.intact else "HAS CHANGED"
    return [
        f"{len(story.meanwhile)} requests were answered meanwhile: {meanwhile}",
        f"{len(story.quiet)} requests before: {before}",
        f"the digest over all documents {digest}",
    ]


def _closing(story: Story) -> str:
    before, after = story.cured, story.receipt.after.rss_bytes
    came = f"{_percent(before - after, before)} of its RSS went after the usual cures"
    if story.receipt.evidence == "frames":
        return f"{came}; {format_bytes(story.receipt.freed)} came back to the system, proven frame by frame."
    return f"{came}; at most {format_bytes(story.receipt.freed)} came back: as root, every frame would be looked up."


def _document(story: Story) -> str:
    from dontneed.report.json import address_space_document, format_json
    from dontneed.report.release import plan_document, release_document

    return format_json(
        {
            "look": address_space_document(story.look, story.look.mappings),
            "rss_after_usual_cures_bytes": story.cured,
            "plan": plan_document(story.plan),
            "release": release_document(story.receipt),
            "requests_meanwhile": len(story.meanwhile),
            "intact": story.intact,
        }
    )


def _affordable() -> int:
    """As many documents as take a quarter of what is available at most."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(16 * MIB // _DOCUMENT_BYTES, min(_DOCUMENTS, available // 4 // _DOCUMENT_BYTES))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


def _tell(lines: Iterable[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _keep_quiet(_lines: Iterable[str]) -> None:
    """For --json, where the end says it all."""


_CODE = """\
import dontneed

pid = 12345                                   # of any process of yours
print(dontneed.look(pid).total)
planned = dontneed.plan(pid)                  # stops nothing, changes nothing
for survey in planned.surveys:
    print(survey.reason, survey.releasable_bytes, survey.why_safe, survey.refused)
print(planned.release())                      # the receipt"""
