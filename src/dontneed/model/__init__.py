"""The executable kernel: what Linux does to the memory of a process, from 2.6.32 to 6.18, without a system call."""
