"""Why pages can go without anyone noticing: one file per reason."""
