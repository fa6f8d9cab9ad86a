"""One file per question to the kernel; `lab.catalogue` has their order."""
