"""What the doctor looks at, and what it says of it; `__main__.py` is the command."""
