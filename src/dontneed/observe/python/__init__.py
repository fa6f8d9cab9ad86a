"""What another process's CPython holds: its runtime, its arenas of small objects, their pools and free lists."""
