"""What runs on the kernel: a small program, its C library, the stacks of its threads."""
