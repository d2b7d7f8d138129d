"""What a run reports: console, metrics, time, pages."""
