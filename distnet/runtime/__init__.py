"""What every package uses and what imports nothing from them: errors, failures, files, processes, text."""
