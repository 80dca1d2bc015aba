"""The page of all runs: one self-contained file, served to this machine only."""
