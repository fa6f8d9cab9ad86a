"""The command: one file per subcommand; the only floor that prints or exits."""
