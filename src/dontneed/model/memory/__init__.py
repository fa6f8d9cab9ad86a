"""What pages are kept in: frames, the page cache of files, swap."""
