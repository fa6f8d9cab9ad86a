"""`discard` on every kind of memory: what it reads as afterwards, to the byte, and what became of its frames.

What the receipt says of frames is not believed: the test reads their numbers before, and asks the kernel of each
afterwards, in code of its own.
"""

from __future__ import annotations

import array
import ctypes
import errno
import mmap
import os
import sys
import tempfile
import threading
import time
import types
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dontneed import discard
from dontneed.kernel.mappings import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, map_memory, unmap_memory
from dontneed.reclaim import discard as discard_module  # noqa: F401 - see `_module`

PAGE = mmap.PAGESIZE
HUGE = PAGE * PAGE // 8
MIB = 1 << 20
PRIVATE = MAP_PRIVATE | MAP_ANONYMOUS
COLLAPSE = 25
