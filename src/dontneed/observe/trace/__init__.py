"""One timeline of a process: recorded, decoded, kept, summed up."""
