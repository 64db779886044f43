"""One module per command: load the settings, compute, write."""
