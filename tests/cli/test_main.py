"""The command as a whole: what it answers when it is used wrongly, refused, left alone or interrupted.

Whatever happens, there is an exit code of the documentation, one sentence and what to try, and never a traceback.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dontneed import __version__
from dontneed.cli.main import COMMANDS, build_parser, main

DONTNEED = (sys.executable, "-m", "dontneed")
PATIENCE_SECONDS = 60

KERNEL_THREAD = 2
"""kthreadd, in the first pid namespace."""


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as a user does."""
    return subprocess.run(
        [*DONTNEED, *map(str, words)], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )


def shell(script: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script, in which "$@" is the command with `words`; output is buffered, as it is by default."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["bash", "-c", script, "bash", *DONTNEED, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env=environment,
    )


def complaint(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """The exit code and the sentence of a command that failed in the way they all should."""
    assert done.stdout == ""
    assert done.stderr.isprintable() or done.stderr.replace("\n", "").isprintable()
    sentence, *hint = done.stderr.splitlines()
    assert [line[:7] for line in hint] in ([], ["  try: "])
    name, colon, words = sentence.partition(": ")
    assert (name, colon) == ("dontneed", ": ")
    return done.returncode, words


# Used wrongly


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "arguments are required: COMMAND"),
        (("frob",), "invalid choice: 'frob'"),
        (("look",), "one of the arguments pid --all is required"),
        (("look", "1", "--all"), "argument --all: not allowed with argument pid"),
        (("look", "--frob", "1"), "unrecognized arguments: --frob"),
        (("look", "1", "2"), "unrecognized arguments: 2"),
        (("look", "1", "--top", "-3"), "--top"),
        (("look", "1", "--top", "many"), "'many' is not a number of rows"),
        (("look", "1", "--sort", "name"), "invalid choice: 'name'"),
        (("look", "1", "--json", "--csv"), "not allowed with argument --json"),
        (("lab",), "arguments are required: ACTION"),
        (("doctor", "1"), "unrecognized arguments: 1"),
    ],
)
def test_a_wrong_call_is_shown_the_usage(capsys, words, said):
    """Exit code 2, the usage, and what is wrong with it."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert printed.err.startswith("usage: dontneed")
    assert said in printed.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("pid", "code", "sentence"),
    [
        ("bash", 2, "a pid is a number, and 'bash' is none"),
        ("", 2, "a pid is a number, and '' is none"),
        ("-1", 2, "a pid is a number, and '-1' is none"),
        ("1.0", 2, "a pid is a number, and '1.0' is none"),
        ("\x1b[31m\n", 2, r"a pid is a number, and '\x1b[31m\n' is none"),
        ("9" * 5000, 2, f"a pid is a number, and '{'9' * 20}' is none"),
        ("0", 2, "a pid is positive, and 0 is not"),
        ("9" * 20, 5, None),
        (str(2**22 + 1), 5, None),
    ],
)
@pytest.mark.parametrize("option", [(), ("--json",)], ids=["plain", "parsed"])
def test_what_cannot_be_a_pid_is_said_to_be_none(capsys, pid, code, sentence, option):
    """Text is wrong use, and a number larger than any pid is nobody; with the parser and on the way without it."""
    told_code = main(["look", pid, *option])
    told_code, told = complaint(subprocess.CompletedProcess((), told_code, *capsys.readouterr()))
    assert told_code == code
    assert told == sentence if sentence else told.startswith(f"there is no process {pid}: ")


def test_a_process_that_was_reaped_is_gone(child):
    """Exit code 5, and how to find out who is there."""
    ended = child()
    ended.kill()
    done = run("look", ended.pid)
    assert complaint(done) == (5, f"there is no process {ended.pid}")
    assert "ps -e" in done.stderr


def test_a_zombie_is_gone_and_its_name_is_harmless(child):
    """Its parent is named, and an escape sequence in its own name reaches no terminal."""
    ended = child("open('/proc/self/comm', 'w').write('\\x1b[31mevil')")
    os.kill(ended.pid, signal.SIGKILL)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    done = run("look", ended.pid)
    code, sentence = complaint(done)
    assert code == 5
    assert sentence.startswith(f"process {ended.pid} (?[31mevil) has ended")
    assert str(os.getpid()) in done.stderr


@pytest.mark.skipif(
    not Path(f"/proc/{KERNEL_THREAD}/comm").exists() or Path(f"/proc/{KERNEL_THREAD}/comm").read_text() != "kthreadd\n",
    reason="needs to see a kernel thread: this is a pid namespace of its own",
)
@pytest.mark.needs_root
def test_a_kernel_thread_has_nothing_to_look_at():
    """It is there and has no memory: a failure, and not that it is gone."""
    code, sentence = complaint(run("look", KERNEL_THREAD))
    assert (code, sentence.split(":")[0]) == (1, f"process {KERNEL_THREAD} (kthreadd) is a kernel thread")


@pytest.mark.needs_root
def test_a_process_of_somebody_else_is_not_permitted(child, as_nobody):
    """Exit code 3, whose it is, who you are, and what would help."""
    done = as_nobody.command("look", str(child().pid))
    code, sentence = complaint(done)
    assert code == 3
    assert sentence.endswith("it belongs to uid 0, you are uid 65534")
    assert "sudo" in done.stderr
    assert "CAP_SYS_PTRACE" in done.stderr


def test_nobody_may_look_at_itself(as_nobody):
    """What needs no right takes none."""
    done = as_nobody(
        "import os; from dontneed.cli.main import main; raise SystemExit(main(['look', str(os.getpid())]))"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "resident" in done.stdout.splitlines()[0]


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
@pytest.mark.parametrize("step", ["read_moment", "read_maps", "count_pages", "read_counters"])
def test_a_process_that_ends_meanwhile_is_gone(child, monkeypatch, capsys, step, reaped):
    """Whichever step of the look it ends before: half a picture is none."""
    from dontneed.observe import address_space

    target = child()
    original = getattr(address_space, step)

    def end_first(*arguments, **named):
        if reaped:
            target.kill()
        else:
            os.kill(target.pid, signal.SIGKILL)
            os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)
        return original(*arguments, **named)

    monkeypatch.setattr(address_space, step, end_first)
    assert main(["look", str(target.pid)]) == 5
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"dontneed: process {target.pid} ")


# Where the output goes

CROWD = """if True:
    import ctypes, mmap
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    held = mmap.mmap(-1, 4000 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(held))
    for page in range(0, 4000, 2):
        libc.mprotect(start + page * 4096, 4096, mmap.PROT_READ)
"""
"""Holds 4,000 mappings: more than a pipe takes at once."""


@pytest.mark.parametrize("form", ["--pmap", "--csv", "--json", "--sort=rss"])
def test_a_pipe_that_is_closed_early_is_no_failure(child, form):
    """`dontneed look PID | head -1`: one line, exit code 0, and not a word about it."""
    done = shell('set -o pipefail; "$@" | head -1', "look", child(CROWD).pid, "--top", "0", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("words", [("look", os.getpid()), ("look", "--help"), ("doctor",)], ids=str)
def test_a_pipe_that_nobody_reads_is_no_failure(words):
    """The reader is gone before the first byte; what is small fails only when it is flushed."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*DONTNEED, *map(str, words)], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=PATIENCE_SECONDS
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "words",
    [("look", os.getpid()), ("look", os.getpid(), "--json"), ("--help",), ("doctor",), ("lab", "list")],
    ids=str,
)
def test_a_full_disk_is_said_in_a_sentence(words):
    """Exit code 1: whoever asked has no answer."""
    done = shell('"$@" > /dev/full', *words)
    assert complaint(done) == (1, "cannot write the result: No space left on device")


def test_a_closed_output_is_said_in_a_sentence():
    """Exit code 1, and nothing is looked at for nobody."""
    done = shell('"$@" >&-', "look", os.getpid())
    assert complaint(done) == (1, "standard output is closed: there is nowhere to write to")


def test_with_standard_error_closed_the_exit_code_still_tells():
    """And the complaint does not go to where the result was expected."""
    done = shell('"$@" 2>&-', "look", "bash")
    assert (done.returncode, done.stdout) == (2, "")


def test_what_a_system_call_refuses_is_said_in_a_sentence():
    """No floor has words for a process that may open no file; there is a sentence all the same."""
    code = """if True:
        import resource
        from dontneed.cli.main import main
        import dontneed.cli.look, dontneed.report.table
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        code = main(["look", "1"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        raise SystemExit(code)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    told_code, sentence = complaint(done)
    assert told_code == 1
    assert "Too many open files" in sentence


# Interrupted


@pytest.mark.parametrize("words", [("plan",), ("look", "--pages", "--json")])
def test_a_python_without_numpy_is_told_in_a_sentence(monkeypatch, capsys, child, words):
    """As sudo may find one; what does without it goes on to do so."""
    pid = str(child().pid)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert main([words[0], pid, *words[1:]]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("dontneed: this takes numpy, which ")
    assert "pip install numpy" in said[1]
    assert main(["look", pid]) == 0


def test_a_numpy_that_cannot_be_loaded_is_told_in_a_sentence(tmp_path, child):
    """It was built for another Python, or lacks a library: of the twenty lines that numpy says, one counts."""
    (tmp_path / "numpy.py").write_text("raise ImportError('PLEASE READ THIS on numpy\\n\\nOriginal error was: odd')")
    done = subprocess.run(
        [sys.executable, "-m", "dontneed", "look", str(child().pid), "--pages", "--json"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    told_code, sentence = complaint(done)
    assert told_code == 1
    assert sentence.startswith("this takes numpy, which ")
    assert sentence.endswith("cannot load: Original error was: odd")


def test_ctrl_c_ends_the_command_without_a_word():
    """Exit code 130, as shells have it for SIGINT."""
    code = """if True:
        import signal, time
        from dontneed.cli import look
        from dontneed.cli.main import main
        def look_for_long(*_, **__):
            print("looking", flush=True)
            time.sleep(60)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        look.look = look_for_long
        raise SystemExit(main(["look", "1"]))
    """
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout.readline() == "looking\n"
        command.send_signal(signal.SIGINT)
        rest, complaints = command.communicate(timeout=PATIENCE_SECONDS)
    assert (command.returncode, rest, complaints) == (130, "", "")


# Help


def parsers() -> list[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every parser with the words that lead to it: the command, its subcommands, and theirs."""

    def below(words, parser):
        yield words, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, each in action.choices.items():
                    yield from below((*words, name), each)

    return list(below((), build_parser()))


PARSERS = parsers()


def test_every_command_is_there():
    """The table of commands and the parser say the same."""
    assert {words[0] for words, _ in PARSERS if len(words) == 1} == set(COMMANDS)


@pytest.mark.parametrize(("words", "parser"), PARSERS, ids=[" ".join(words) or "dontneed" for words, _ in PARSERS])
def test_help_explains_every_option(capsys, words, parser):
    """Exit code 0, on standard output, and each option and argument has words beside it."""
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.err) == (0, "")
    assert printed.out.startswith(f"usage: {' '.join(('dontneed', *words))}")
    for action in parser._actions:
        assert isinstance(action, argparse._SubParsersAction) or action.help
        assert all(option in printed.out for option in action.option_strings)


@pytest.mark.parametrize("words", [words for words, _ in PARSERS if len(words) == 1], ids=" ".join)
def test_help_of_a_command_needs_no_other_command(words):
    """A command's help loads its own module alone: it starts fast, and one broken command breaks no other."""
    code = f"""if True:
        import sys
        from dontneed.cli.main import main
        try:
            main([{words[0]!r}, "--help"])
        except SystemExit:
            print(*(name for name in sys.modules if name.startswith("dontneed.cli.")), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    commands = {f"dontneed.cli.{name}" for name in COMMANDS}
    assert set(done.stderr.split()) & commands == {f"dontneed.cli.{words[0]}"}


def test_version_is_that_of_the_package(capsys):
    """One line, and no command needed."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"dontneed {__version__}\n")


def test_the_reference_names_every_command_and_option():
    """docs/reference/command.md is written by hand; what it forgets is found here."""
    text = (Path(__file__).parents[2] / "docs/reference/command.md").read_text(encoding="utf-8")
    for words, parser in PARSERS:
        assert " ".join(("dontneed", *words)) in text
        section = section_of(text, words[0]) if words else text
        for action in parser._actions:
            for option in action.option_strings:
                assert re.search(rf"`{re.escape(option)}\b", section), (words, option)


def section_of(text: str, command: str) -> str:
    """The part of a page under the heading of a command, to the next heading of its rank."""
    return re.split(r"(?m)^## ", text.split(f"\n## {command}", maxsplit=1)[1])[0]
