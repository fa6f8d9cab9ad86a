"""Results as text for people and for programs: one file per format. Nothing here prints."""
