"""What all of distnet stands on and what depends on nothing in it: errors, files, processes, text."""
