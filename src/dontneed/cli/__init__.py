"""The command: one file per subcommand; the only floor that prints or exits."""

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C has ended: 128 and the number of SIGINT."""
