"""A short-lived process that acts on another one, or on its own parent, and tells what came of it.

Why a process of its own: ptrace belongs to a thread and its stops arrive by wait(2), which a program may be using for
its own children; a process cannot stop itself; and whoever acts must not be interrupted half-way. So the helper is
small, single-threaded, in a session of its own, with all signals blocked, spared by the OOM killer where that is
allowed, and it ends as soon as it has answered. What it does inside a target heals by itself should it be killed.

The caller and the helper are the same program at the same version: they talk by pickles over two pipes.

    answer = ask("dontneed.reclaim.worker", order, pid)         # in the caller
    serve(lambda order, is_cancelled: ...)                      # in that module's main()

Kernel:
    prctl(PR_SET_PTRACER) since 3.4: under Yama's mode 1 a process may be traced by whom it names.
"""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
from contextlib import contextmanager, nullcontext

from dontneed.errors import DontneedError, TargetRefused
from dontneed.kernel.libc import prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO, Any

_PR_SET_PTRACER = 0x59616D61
_BOOT = (
    "import signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); "
    "sys.path[:0] = sys.argv[2:]; from importlib import import_module; import_module(sys.argv[1]).main()"
)
_OOM_SCORES = (-1000, 0)
"""Never; and, without CAP_SYS_RESOURCE, no sooner than an ordinary process."""


def ask(module: str, request: object, pid: int) -> Any:
    """Start a helper, hand it a request, and wait for its answer.

    A KeyboardInterrupt while waiting cancels: the helper finishes what it is at, and its answer is what has been done
    until then; a second one raises, and the helper still finishes by itself.

    Args:
        module: has `main()`, which calls `serve`.
        request: anything that can be pickled.
        pid: whom it is to act on; ourselves, we let it trace us.
    Returns:
        What the other side answered.
    Raises:
        DontneedError: whatever the other side raised; or the helper could not be started, or ended without an answer.
    """
    command = [_interpreter(), "-I", "-c", _BOOT, module, *_import_paths()]
    with subprocess.Popen(  # noqa: S603 - our own interpreter and our own code
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as helper:
        with _tracing_allowed(helper.pid) if pid == os.getpid() else nullcontext():
            try:
                answer = _exchange(helper, request)
            except KeyboardInterrupt:
                answer = _cancel(helper)
        helper.wait()
    if answer is None:
        msg = f"the helper process ended without an answer (exit status {helper.returncode})"
        raise TargetRefused(msg, hint="was it killed? a target that it held runs on by itself")
    if isinstance(answer, DontneedError):
        raise answer
    return answer


def serve(answer: Callable[[Any, Callable[[], bool]], object]) -> None:
    """Read the request, answer it, end. For the helper's `main()`.

    Args:
        answer: gets the request, and a function that says whether the caller has cancelled. An error of ours that it
            raises is raised in the caller.
    """
    _spare_from_the_oom_killer()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    request = pickle.load(requests)  # noqa: S301 - from our parent, which started us
    try:
        said = answer(request, lambda: _at_its_end(requests))
    except DontneedError as error:
        said = error
    try:
        pickle.dump(said, answers)
        answers.flush()
    except BrokenPipeError:  # the caller has ended; the interpreter flushes once more at its end, and may
        os.dup2(os.open(os.devnull, os.O_WRONLY), answers.fileno())


def _exchange(helper: subprocess.Popen[bytes], request: object) -> Any:
    """Hand over the request and take the answer; None if there is none."""
    if helper.stdin is None or helper.stdout is None:
        return None
    try:
        pickle.dump(request, helper.stdin)
        helper.stdin.flush()
    except BrokenPipeError:  # it ended before it could read; its answer, or the lack of one, says why
        pass
    return _load(helper.stdout)


def _cancel(helper: subprocess.Popen[bytes]) -> Any:
    """Let the helper see that nobody wants more, and take what it has done."""
    if helper.stdin is None or helper.stdout is None:
        return None
    helper.stdin.close()
    return _load(helper.stdout)


def _load(answers: IO[bytes]) -> Any:
    try:
        return pickle.load(answers)  # noqa: S301 - from a child of ours
    except EOFError:
        return None


def _at_its_end(requests: IO[bytes]) -> bool:
    """Whether the caller has closed its end; it writes nothing after the request."""
    readable, _, _ = select.select([requests], [], [], 0)
    return bool(readable)


def _interpreter() -> str:
    """A Python like ours. `sys.executable` is another program where Python is embedded."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for path in (
        sys.executable,
        os.path.join(sys.exec_prefix, "bin", name),
        os.path.join(sys.base_prefix, "bin", name),
    ):
        if path and os.path.basename(path).startswith("python") and os.access(path, os.X_OK):
            return path
    msg = f"no Python interpreter was found to run a helper process with ({sys.executable or 'unknown'} is none)"
    raise TargetRefused(msg, hint="run the `dontneed` command on this process instead: dontneed release PID")


def _import_paths() -> list[str]:
    """Where the helper finds dontneed and numpy, as we did."""
    from importlib.util import find_spec

    places = []
    for name in ("dontneed", "numpy"):
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            places.append(os.path.dirname(os.path.dirname(spec.origin)))
    return list(dict.fromkeys(places))


@contextmanager
def _tracing_allowed(tracer: int) -> Iterator[None]:
    """Let a process trace us meanwhile. Without Yama every process of our user may, and this is EINVAL."""
    prctl(_PR_SET_PTRACER, tracer, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_PTRACER, 0, 0, 0, 0)


def _spare_from_the_oom_killer() -> None:
    for score in _OOM_SCORES:
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(score))
        except PermissionError:  # lowering it takes CAP_SYS_RESOURCE
            continue
        return
