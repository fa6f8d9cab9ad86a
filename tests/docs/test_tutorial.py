"""The documentation runs: a page's Python blocks as one program, its console blocks as one would type them.

```python blocks of a page are executed in order in one namespace, ```console blocks are shell scripts made of their
lines that begin with `$ `; both must succeed, as whoever runs the tests and as nobody. What a console block shows
otherwise, and ```text, is of somebody's run and is not compared. ```sh is for commands that need what is not here.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
PATIENCE_SECONDS = 60


def read(page: str) -> str:
    """The text of a page."""
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", read(page))


def program(page: str) -> str:
    """The Python blocks of a page as one program, which names the block where it fails."""
    parts = [
        f"exec(compile({block!r}, {f'{page}, python block {number}'!r}, 'exec'))"
        for number, block in enumerate(blocks(page, "python"), 1)
    ]
    return "\n".join(parts)


def script(page: str) -> str:
    """The console blocks of a page as one shell script; `dontneed` is the one that is tested."""
    typed = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    command = f'dontneed() {{ {shlex.quote(sys.executable)} -m dontneed "$@"; }}'
    place = """place=$(mktemp -d); trap 'rm -rf "$place"' EXIT; cd "$place\""""
    return "\n".join(["set -e -o pipefail", place, command, *typed])


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_CONSOLE = [page for page in PAGES if blocks(page, "console")]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run to the end, with the rights that the tests have."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)


RIGHTS = pytest.mark.parametrize("rights", ["those we have", pytest.param("none", marks=pytest.mark.needs_root)])


@RIGHTS
@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page != "tutorial.md"])
def test_python_runs(page, rights, as_nobody):
    """Every block, in order, in one namespace; nothing that is shown needs root, though root may see more."""
    done = as_nobody(program(page)) if rights == "none" else run(sys.executable, "-c", program(page))
    assert (done.returncode, done.stderr) == (0, "")


@RIGHTS
@pytest.mark.parametrize("page", WITH_CONSOLE)
def test_commands_succeed(page, rights, as_nobody):
    """Every line that begins with a prompt, in one shell."""
    bash = f"import os; os.execvp('bash', ['bash', '-c', {script(page)!r}])"
    done = as_nobody(bash) if rights == "none" else run("bash", "-c", script(page))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_block_that_fails_is_noticed(monkeypatch, tmp_path):
    """The tests above can fail: a wrong block names itself, a wrong command ends the script."""
    (tmp_path / "page.md").write_text(
        "```python\nx = 1\n```\n```python\nx.y\n```\n```console\n$ false\n$ echo on\n```\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "DOCS", tmp_path)
    assert "page.md, python block 2" in run(sys.executable, "-c", program("page.md")).stderr
    done = run("bash", "-c", script("page.md"))
    assert (done.returncode, done.stdout) == (1, "")


NEARLY_ALL = 0.95
"""The interpreter may take a page for itself while its counters are read."""

TELL_RECEIPTS = """
import json
def told(receipt):
    return {**receipt.as_dict(), "before": receipt.before.rss_bytes, "after": receipt.after.rss_bytes}
print(json.dumps({name: told(value) for name, value in list(globals().items()) if isinstance(value, dontneed.Receipt)}))
"""


@RIGHTS
def test_the_tutorial_runs_and_its_receipts_are_as_it_says(rights, as_nobody):
    """Every block, in order, in one namespace; and what the prose claims of each receipt."""
    code = f"{program('tutorial.md')}\n{TELL_RECEIPTS}"
    done = as_nobody(code) if rights == "none" else run(sys.executable, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    receipts = json.loads(done.stdout.splitlines()[-1])
    whole, half, shared = receipts["receipt"], receipts["half_receipt"], receipts["shared_receipt"]
    assert whole["asked"] == 256 << 20
    assert 0 <= whole["asked"] - whole["advised"] <= 2 * 4096
    assert whole["freed"] >= NEARLY_ALL * whole["advised"]
    assert half["advised"] == 1 << 20
    assert half["freed"] + half["deferred"] >= NEARLY_ALL * half["advised"]
    assert half["before"] - half["after"] >= NEARLY_ALL * half["advised"]
    assert shared["freed"] >= NEARLY_ALL * shared["advised"] == NEARLY_ALL * (4 << 20)
    assert "MAP_SHARED" in shared["notes"][0]
    if rights == "none":
        assert whole["evidence"] == "counters"


# The reference


def test_the_receipt_is_described_field_by_field():
    """No field without a meaning, in its table."""
    from dontneed import Receipt

    text = read("reference/receipt.md")
    rows = re.findall(r"(?m)^\| (`[^|]*`) \|", text)
    described = {field for row in rows for field in re.findall(r"`(\w+)`", row)}
    assert set(Receipt._fields) <= described


def test_the_json_of_a_look_is_described_field_by_field():
    """Every name that a program may meet stands in the page of the command."""
    from dontneed.observe.address_space import look
    from dontneed.observe.mapping import KINDS
    from dontneed.report.json import address_space_document, format_json

    space = look(smaps=True, pages=True)
    document = json.loads(format_json(address_space_document(space, space.mappings)))
    names = {*document, *document["total"], *document["counters"], *document["drift"], *KINDS}
    names |= {*document["mappings"][0], *document["pages"][0]}
    text = read("reference/command.md")
    assert sorted(name for name in names if f"`{name}`" not in text) == []


# Links


@pytest.mark.parametrize("page", [*PAGES, "../README.md"])
def test_links_lead_somewhere(page):
    """To a file that is there, and to a heading in it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if link.startswith(("http:", "https:")):
            continue
        path, _, heading = link.partition("#")
        target = (DOCS / page).parent / path if path else DOCS / page
        assert target.exists(), link
        if heading:
            assert heading in headings(target), link


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_in_the_index():
    """A page that nobody finds is not there."""
    index = read("index.md")
    assert [page for page in PAGES if page != "index.md" and f"]({page})" not in index] == []
