"""Speed, measured as a ratio on this machine."""
