"""Live page tables: one walk, or all of a process, re-checked and counted."""
