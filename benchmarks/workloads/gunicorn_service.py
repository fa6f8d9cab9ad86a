"""gunicorn with one worker of four threads and the Flask application; each unit is sixty requests over TCP.

The process that is released is gunicorn's worker; this one is its client. It also asks at a pace: `pace` is
answered with how long requests took from the moment when they were due, once it reads `stop`.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from protocol import serve

_THREADS = 4
_INTERVAL_SECONDS = 0.01
_PR_SET_PDEATHSIG = 1


class Requests:
    """One connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, path: str, body: object = None) -> object:
        """GET, or POST what there is to send; the JSON that came back."""
        text = None if body is None else json.dumps(body)
        self._connection.request("GET" if text is None else "POST", path, text, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            message = f"{path}: {response.status} {answer!r}"
            raise RuntimeError(message)
        return json.loads(answer)


def main() -> None:
    """Start gunicorn on a socket of ours, and serve until our input ends; then gunicorn ends too."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
        port = listening.getsockname()[1]
        with _gunicorn(listening.fileno()) as gunicorn:
            try:
                pid = Requests(port).ask("/pid")
                serve(
                    {
                        "unit": lambda: _unit(port),
                        "check": lambda: Requests(port).ask("/check"),
                        "tidy": lambda: Requests(port).ask("/tidy", {}),
                        "pace": lambda: _pace(port),
                    },
                    int(str(pid)),
                )
            finally:
                gunicorn.terminate()


def _gunicorn(descriptor: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gunicorn", "--bind", f"fd://{descriptor}", "--workers", "1"]
    command += ["--worker-class", "gthread", "--threads", str(_THREADS), "--log-level", "warning"]
    # Two seconds by default: on a busy machine a client may take longer between two requests.
    command += ["--keep-alive", "60", "flask_app:app"]
    return subprocess.Popen(
        command,
        cwd=Path(__file__).parent,
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - no threads yet
    )


def _unit(port: int) -> str:
    """Four clients at once; the answers are always the same."""
    with ThreadPoolExecutor(_THREADS) as clients:
        answers = [answer for each in clients.map(partial(_client, port), range(_THREADS)) for answer in each]
    return f"{len(answers)} answers, {round(sum(answers), 2)}"


def _client(port: int, nth: int) -> list[float]:
    requests = Requests(port)
    answers: list[float] = []
    for page in range(12):
        items = requests.ask(f"/items/{(nth * 12 + page) * 200}")
        answers.append(sum(item["price"] for item in items))  # type: ignore[attr-defined]
    for order in range(3):
        lines = [{"item": (nth * 7919 + order * 31 + line) % 20_000, "count": 1 + line % 5} for line in range(20_000)]
        answers.append(requests.ask("/orders", {"lines": lines, "note": "as every week"}))  # type: ignore[arg-type]
    return answers


def _pace(port: int) -> dict[str, float]:
    """Ask for a price every few milliseconds until `stop` is read; the seconds of each, from when it was due.

    Whatever else is read meanwhile, a request of its own is made for it.
    """
    requests = Requests(port)
    requests.ask("/price/1")
    ended = threading.Event()
    threading.Thread(target=_until_stop, args=(port, ended), daemon=True).start()
    samples: list[float] = []
    due = time.perf_counter()
    while not ended.is_set():
        due += _INTERVAL_SECONDS
        early = due - time.perf_counter()
        if early > 0:
            time.sleep(early)
            due = time.perf_counter()  # waking up late is the scheduler's doing, and nobody's who releases
        began = due
        item = len(samples) % 20_000
        price = requests.ask(f"/price/{item}")
        samples.append(time.perf_counter() - began)
        if price != item % 977 / 10:
            message = f"item {item} costs {price!r}"
            raise RuntimeError(message)
    samples.sort()
    return {
        "count": len(samples),
        "p50": samples[len(samples) // 2],
        "p99": samples[len(samples) * 99 // 100],
        "longest": samples[-1],
    }


def _until_stop(port: int, ended: threading.Event) -> None:
    while (word := sys.stdin.readline().strip()) not in {"stop", ""}:
        Requests(port).ask(f"/{word}", {})
    ended.set()


if __name__ == "__main__":
    main()
