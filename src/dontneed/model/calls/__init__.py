"""The system calls that change an address space, and what each refuses, in which order."""
