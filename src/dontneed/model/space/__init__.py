"""An address space: its mappings in order, and the page table that says what is behind each page."""
