"""What a Python program that does the steps of an experiment begins with: imports, and the functions that it calls.

A program gets what it uses and no more: the plainest is one that a reader of the standard library's docs could write.
"""

from __future__ import annotations

_HEAD = '''\
"""{question}

What `dontneed lab run {experiment}` does, here in the interpreter's own process.
"""
'''

_MODULES = {
    "ctypes": "import ctypes",
    "json": "import json",
    "mmap": "import mmap",
    "os": "import os",
    "socket": "import socket",
    "sys": "import sys",
    "time": "import time",
    "suppress": "from contextlib import suppress",
    "dontneed": "import dontneed",
    "Advice": "from dontneed import Advice",
    "PosixAdvice": "from dontneed import PosixAdvice",
    "mappings": "from dontneed.kernel import mappings",
    "threads": "from dontneed.kernel import threads",
    "advise_vector": "from dontneed.kernel.advice_vector import advise_vector",
    "create_file": "from dontneed.kernel.files import create_file",
    "touch_surviving": "from dontneed.kernel.touch import touch_surviving",
}
"""A name, and the import that brings it; in the order that they are written in."""

_FUNCTIONS = {
    "Child": '''
class Child:
    """A forked child that runs the Python that it is given, line by line, until it is told to exit."""

    def __init__(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sys.stdout.flush()
        if os.fork() == 0:
            ours.close()
            while line := theirs.recv(65536):
                exec(line.decode(), globals())
                sys.stdout.flush()
                theirs.send(b"done")
            os._exit(0)
        theirs.close()
        self.channel = ours

    def __call__(self, line):
        sys.stdout.flush()
        self.channel.send(line.encode())
        self.channel.recv(64)
''',
    "memory_named": '''
def memory_named(name):
    """The mapping that the kernel calls so."""
    mapping = next(each for each in dontneed.look().mappings if each.name == name)
    return memory_at(mapping.start, mapping.size_bytes)
''',
    "unmap": '''
def unmap(memory):
    """Unmap memory; the Python object that knew it is kept for ever, since its end would unmap the addresses again."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))
    mappings.unmap_memory(address_of(memory), len(memory))
''',
    "remap": '''
def remap(memory, size):
    """Give memory another length, and another place if need be; the old object is kept, as `unmap` does."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))
    return memory_at(mappings.remap_memory(address_of(memory), len(memory), size), size)
''',
    "memory_at": '''
def memory_at(address, size):
    """The memory there, as something that can be sliced."""
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")
''',
    "wait_until_huge": '''
def wait_until_huge(memory):
    """Wait for khugepaged, for a minute at most; it comes every ten seconds unless sysfs says otherwise."""
    for _ in range(60):
        start = address_of(memory)
        row = next(each for each in dontneed.look(smaps=True).mappings if each.start <= start < each.end)
        if row.smaps.huge_bytes:
            break
        time.sleep(1)
''',
    "show": '''
def show(name, memory):
    """Print the sizes of the mapping that `memory` lies in; the kernel may have merged it with its neighbours."""
    start = address_of(memory)
    for row in dontneed.look(smaps=True).mappings:
        if row.start <= start < row.end:
            sizes = {"mapped": row.size_bytes, "RSS": row.rss_bytes, "dirty": row.smaps.dirty_bytes}
            print(name, *(f"{word} {size >> 10} KiB" for word, size in sizes.items()))
''',
    "address_of": '''
def address_of(memory):
    """Where memory begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
''',
}
"""A name, and what defines it; a function comes before those that it calls."""

TAKEN = frozenset((*_MODULES, *_FUNCTIONS))
"""Names that memory of an experiment cannot have."""


def head(question: str, experiment: str, body: str) -> list[str]:
    """The lines before `body`, which is the program's own text."""
    functions: list[str] = []
    text = body
    for name, source in _FUNCTIONS.items():
        if _is_used(name, text):
            functions.append(source)
            text += source
    imports = [line for name, line in _MODULES.items() if _is_used(name, text)]
    standard = [line for line in imports if "dontneed" not in line]
    ours = [line for line in imports if "dontneed" in line]
    blocks = [_HEAD.format(question=question, experiment=experiment), "\n".join(standard), "", "\n".join(ours)]
    return "\n".join([*blocks, *(f"\n{source.rstrip()}" for source in functions), ""]).splitlines()


def _is_used(name: str, text: str) -> bool:
    import re

    return re.search(rf"(?<![\w.\"]){name}\b(?=[.(:])", text) is not None
