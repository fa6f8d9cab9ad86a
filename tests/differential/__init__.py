"""Random sequences of memory operations, on the kernel and in the model of it: they must agree after every one."""
