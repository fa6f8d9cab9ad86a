"""What of files is in the page cache."""
