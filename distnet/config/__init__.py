"""The options of a training run: from the command line, a file, a preset."""
