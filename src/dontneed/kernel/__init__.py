"""The live kernel: one file per interface, its facts in the docstring. Only this floor makes system calls."""
