"""Whose malloc a process uses, and what is free inside it: arenas, their states, chunks."""
