"""The stacks of threads: where they are, and what of them is dead."""
