"""Data sets of labelled images: where they are found, how they are read, and what they are called."""
