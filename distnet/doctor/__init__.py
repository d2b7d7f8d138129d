"""Checks of a machine for `python -m distnet.doctor`; `__main__.py` is the command."""
