"""A Python whose threads do all sorts of things and check what comes of them: numbers, text, files, sockets, waits.

It says the addresses of some C functions, and works until a line of input. Then it says how often all threads together
did what they do, how many results were wrong, and the first of those.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import json
import queue
import random
import select
import socket
import sys
import tempfile
import threading
import time
import traceback

ending = threading.Event()
turns, wrong = [], []


def compute(chance):
    """A hash of what is made anew each time, and floating-point sums in two orders."""
    data = bytes(chance.getrandbits(8) for _ in range(2000))
    assert hashlib.sha256(data).digest() == hashlib.sha256(bytearray(data)).digest()
    numbers = [chance.randrange(1 << 40) for _ in range(2000)]
    assert sum(numbers) == sum(sorted(numbers))
    assert sum(map(float, numbers)) == float(sum(numbers))


def convert(chance):
    """Out of Python and back."""
    made = {str(n): [n, n / 3, None, {"deep": str(n) * (n % 7)}] for n in chance.sample(range(1 << 30), 300)}
    assert json.loads(json.dumps(made)) == made


def hand_over(chance):
    """From one thread to another, in order."""
    line = queue.Queue(maxsize=3)
    numbers = [chance.random() for _ in range(50)]
    thread = threading.Thread(target=lambda: [line.put(number) for number in numbers])
    thread.start()
    assert [line.get(timeout=30) for _ in numbers] == numbers
    thread.join()


def wait(chance):
    """For a while, and not for less."""
    span = 0.001 + chance.random() * 0.004
    for waits in (time.sleep, threading.Event().wait, lambda seconds: select.select([], [], [], seconds)):
        begun = time.monotonic()
        waits(span)
        assert time.monotonic() - begun >= span


def talk(chance):
    """Over a socket with a timeout, piece by piece."""
    here, there = socket.socketpair()
    with here, there:
        here.settimeout(30)
        sent = chance.randbytes(5000)
        thread = threading.Thread(target=lambda: [there.sendall(sent[n : n + 100]) for n in range(0, len(sent), 100)])
        thread.start()
        received = b""
        while len(received) < len(sent):
            received += here.recv(700)
        thread.join()
        assert received == sent


def keep(chance):
    """In a file, and read again."""
    with tempfile.TemporaryFile() as file:
        data = chance.randbytes(20000)
        file.write(data)
        file.seek(0)
        assert file.read() == data


def schedule(chance):
    """Many waits of one event loop."""

    async def nap(number):
        span = number / 2000
        begun = time.monotonic()
        await asyncio.sleep(span)
        assert time.monotonic() - begun > span - 0.002  # its clock is coarse
        return number

    async def naps():
        return await asyncio.gather(*(nap(chance.randrange(10)) for _ in range(20)))

    assert len(asyncio.run(naps())) == 20


def work(task, seed):
    """Do one of these again and again."""
    chance = random.Random(seed)  # noqa: S311 - for a test, not for secrets
    count = 0
    while not ending.is_set():
        try:
            task(chance)
        except BaseException:  # noqa: BLE001 - whatever it is, it is told
            wrong.append(traceback.format_exc())
        count += 1
    turns.append(count)


def main():
    """Start everything, and wait for the end."""
    libc = ctypes.CDLL(None)
    print(*(ctypes.cast(getattr(libc, name), ctypes.c_void_p).value for name in ("labs", "malloc_trim")), flush=True)
    tasks = (compute, convert, hand_over, wait, talk, keep, schedule)
    threads = [threading.Thread(target=work, args=(task, seed)) for seed, task in enumerate(tasks)]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    ending.set()
    for thread in threads:
        thread.join()
    print(min(turns), sum(turns), len(wrong), *wrong[:1])


main()
