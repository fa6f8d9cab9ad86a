"""What the kernel's headers say: numbers, layouts, words. No input or output, no behaviour."""
