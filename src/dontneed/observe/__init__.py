"""What a process holds: address spaces, pages, and the differences between two looks."""
