"""The helper process: answers, errors, its end, and what protects it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys

import pytest

from dontneed import TargetRefused
from dontneed.remote import helper

ECHO = """
import os, signal, time
from dontneed.errors import NotPermitted
from dontneed.remote.helper import serve

def answer(request, is_cancelled):
    if request == "refuse":
        raise NotPermitted("not for you", hint="ask root")
    if request == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if request == "wait":
        while not is_cancelled():
            time.sleep(0.01)
        return "cancelled"
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return request, signal.SIGINT in blocked, os.getsid(0) == os.getpid(), is_cancelled()

def main():
    serve(answer)
"""


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """Ask a helper whose module the tests wrote."""
    (tmp_path / "echo_helper.py").write_text(ECHO)
    paths = helper._import_paths()
    monkeypatch.setattr(helper, "_import_paths", lambda: [str(tmp_path), *paths])
    return lambda request, pid=1: helper.ask("echo_helper", request, pid)


def test_a_request_is_answered_by_a_process_that_nobody_interrupts(echo):
    """Signals are blocked, and a terminal's Ctrl-C does not reach its session."""
    assert echo({"of": [1, 2]}) == ({"of": [1, 2]}, True, True, False)


def test_an_error_of_ours_crosses_the_pipe(echo):
    """With its kind, so that exit code and hint stay what they are."""
    from dontneed import NotPermitted

    with pytest.raises(NotPermitted, match="not for you") as refused:
        echo("refuse")
    assert refused.value.hint == "ask root"


def test_a_helper_that_is_killed_is_an_error_and_no_hang(echo):
    """The OOM killer may take it, or somebody."""
    with pytest.raises(TargetRefused, match="without an answer"):
        echo("die")


def test_an_interrupted_caller_gets_what_has_been_done(echo, monkeypatch):
    """Ctrl-C cancels; it does not tear the helper from its work."""
    exchange = helper._exchange

    def interrupted(process, request):
        import pickle

        pickle.dump(request, process.stdin)
        process.stdin.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(helper, "_exchange", interrupted)
    assert echo("wait") == "cancelled"
    assert exchange is not interrupted


@pytest.mark.usefixtures("echo")
def test_a_helper_whose_caller_has_ended_ends_without_a_word():
    """Its answer goes nowhere; on the standard error that it shares with the caller nobody wants to read of that."""
    command = [sys.executable, "-I", "-c", helper._BOOT, "echo_helper", *helper._import_paths()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as left_alone:
        pickle.dump("wait", left_alone.stdin)
        left_alone.stdout.close()
        left_alone.stdin.close()
        assert left_alone.stderr.read() == b""
    assert left_alone.returncode == 0


def test_where_python_is_embedded_a_real_interpreter_is_found(monkeypatch):
    """`sys.executable` of a web server is the web server: started with our arguments it would serve the web."""
    monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
    assert os.path.basename(helper._interpreter()).startswith("python")
    monkeypatch.setattr(sys, "exec_prefix", "/nowhere")
    monkeypatch.setattr(sys, "base_prefix", "/nowhere")
    with pytest.raises(TargetRefused, match="no Python interpreter"):
        helper._interpreter()


def test_signals_of_the_caller_stay_as_they_were(echo):
    """Nothing of the helper's protection stays behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    echo("anything", os.getpid())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
