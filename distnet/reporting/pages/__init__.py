"""Pages that tell of training runs: one HTML file each, with its charts and pictures in it."""
