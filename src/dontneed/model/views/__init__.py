"""How memory is seen: the files of /proc, the raw entries of page tables, the way of a discard through the kernel."""
