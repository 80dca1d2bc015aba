"""Data sets of labelled images: locations, readers and names."""
