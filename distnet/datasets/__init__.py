"""Data sets: find and read files, standardise, share among ranks."""
