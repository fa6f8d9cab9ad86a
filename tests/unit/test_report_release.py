"""A plan and a receipt in text and as documents: what people and programs read."""

from __future__ import annotations

import json

from dontneed.kernel.status import Counters
from dontneed.reasons.survey import Survey
from dontneed.reclaim.plan import Plan
from dontneed.reclaim.receipt import ReasonReceipt, ReleaseReceipt
from dontneed.report.json import format_json
from dontneed.report.release import format_plan, format_release, plan_document, release_document
from dontneed.spans import Spans

MIB = 1 << 20


def survey(reason="zero-pages", releasable=0, spans=(), **named):
    values = {"why_safe": "they read as zero before and after", "cost_seconds": 0.0, "pause_seconds": 0.0, **named}
    return Survey(reason, releasable, Spans(spans), **values)


def plan_of(*surveys, rss=100 * MIB):
    return Plan(42, "service", 7, Counters(rss_bytes=rss), surveys, 0.25)


def reason_receipt(reason="zero-pages", **amounts):
    nothing = dict.fromkeys(("asked", "advised", "freed", "deferred", "shared", "lazy", "cached", "refaulted"), 0)
    values = {"pause_seconds": 0.0, "stops": 0, "cost_seconds": 0.0, **nothing, **amounts}
    return ReasonReceipt(reason, **values)


def receipt_of(*reasons, evidence="frames", notes=()):
    before, after = Counters(rss_bytes=100 * MIB), Counters(rss_bytes=40 * MIB)
    return ReleaseReceipt(42, "service", before, after, reasons, evidence, 1.5, notes=notes)


PLAN = plan_of(
    survey(releasable=20 * MIB, spans=[(0, 20 * MIB)], pause_seconds=0.004, cost_seconds=0.1),
    survey("dead-stack", refused=("process 42 is traced by gdb (pid 7)",)),
)
RECEIPT = receipt_of(
    reason_receipt(asked=60 * MIB, advised=60 * MIB, freed=58 * MIB, deferred=2 * MIB, pause_seconds=0.004, stops=3),
    reason_receipt("dead-stack", failed="process 42 is traced by gdb", exit_code=1),
    reason_receipt("clean-file", notes=("2 files are on tmpfs",)),
)


def test_a_plan_is_a_sentence_a_table_and_its_reasons():
    """Each line one that a person wants to read."""
    assert format_plan(PLAN) == [
        "service (pid 42): 100 MiB resident, 20.0 MiB (20 %) could go",
        "",
        "COULD GO  PAUSE    COST  REASON",
        "20.0 MiB   4 ms  100 ms  zero-pages",
        "       0                 dead-stack",
        "",
        "zero-pages: they read as zero before and after",
        "dead-stack: refused: process 42 is traced by gdb (pid 7)",
        "",
        "surveyed in 250 ms; nothing was stopped, and nothing changed",
    ]


def test_a_process_without_memory_has_no_share():
    """Nothing is divided by nothing."""
    assert format_plan(plan_of(rss=0))[0] == "service (pid 42): 0 resident, 0 could go"


def test_a_receipt_shows_the_amounts_that_there_are():
    """`advised` and `freed` always; the others when a reason has any."""
    assert format_release(RECEIPT) == [
        "service (pid 42): RSS 100 MiB → 40.0 MiB; 58.0 MiB freed",
        "",
        " ADVISED     FREED  DEFERRED  PAUSE  STOPS  REASON",
        "60.0 MiB  58.0 MiB   2.0 MiB   4 ms      3  zero-pages",
        "       0         0         0   none         dead-stack",
        "       0         0         0   none         clean-file",
        "",
        "dead-stack: failed: process 42 is traced by gdb",
        "clean-file: 2 files are on tmpfs",
        "evidence: frames: every frame was looked up after it had gone; all took 1.5 s",
    ]


def test_counters_are_called_what_they_are():
    """A bound, no proof; and the notes of the whole are shown."""
    lines = format_release(receipt_of(reason_receipt(freed=MIB), evidence="counters", notes=("frames are hidden",)))
    assert lines[-2] == "note: frames are hidden"
    assert lines[-1].startswith("evidence: counters: freed is at most this")


def test_a_name_cannot_command_the_terminal():
    """The command of a process is chosen by whoever wrote it."""
    assert "\x1b" not in "".join(format_plan(PLAN.replace(command="evil\x1b[2J")))


def test_the_document_of_a_plan_has_the_promised_fields():
    """Programs rely on them: names, bytes, seconds."""
    document = json.loads(format_json(plan_document(PLAN)))
    assert {"schema", "pid", "rss_bytes", "releasable_bytes", "reasons"} <= set(document)
    assert document["releasable_bytes"] == 20 * MIB
    assert document["reasons"][0] == {
        "name": "zero-pages",
        "bytes": 20 * MIB,
        "cost_seconds": 0.1,
        "pause_seconds": 0.004,
        "why_safe": "they read as zero before and after",
        "refused": [],
    }


def test_the_document_of_a_release_is_the_receipt():
    """Counters before and after, every amount of every reason, the evidence."""
    document = json.loads(format_json(release_document(RECEIPT)))
    assert {"schema", "before", "after", "reasons", "evidence", "freed", "pause_seconds"} <= set(document)
    words = {"name", "asked", "advised", "freed", "deferred", "shared", "lazy", "cached", "pause_seconds"}
    assert all(words <= set(each) for each in document["reasons"])
    assert document["before"]["rss_bytes"] == 100 * MIB
    assert document["freed"] == 58 * MIB


def test_memory_that_two_reasons_would_give_up_counts_once():
    """A page of a free chunk may be zero as well."""
    first = survey(releasable=8 * MIB, spans=[(0, 8 * MIB)])
    second = survey("malloc-free", releasable=6 * MIB, spans=[(4 * MIB, 10 * MIB)])
    assert plan_of(first, second).releasable_bytes == 10 * MIB


def test_a_release_that_failed_has_the_exit_code_of_the_first_failure():
    """So that a script sees that something was not done."""
    assert RECEIPT.exit_code == 1
    assert receipt_of(reason_receipt()).exit_code == 0
    assert (RECEIPT.freed, RECEIPT.pause_seconds) == (58 * MIB, 0.004)
    assert str(RECEIPT) == "58.0 MiB freed, RSS 100 MiB → 40.0 MiB (evidence: frames)"
