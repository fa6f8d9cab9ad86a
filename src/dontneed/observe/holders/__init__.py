"""All processes of the machine: what each holds of it, alone and with others."""
