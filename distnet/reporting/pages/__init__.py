"""HTML reports: one file each, with its charts and pictures in it."""
