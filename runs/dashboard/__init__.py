"""A page of all runs: read, drawn into one file that needs no network, and served to this machine alone."""
