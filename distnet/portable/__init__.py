"""Arithmetic with the same bits on every machine: grids, elementary functions, draws, and a test of the environment."""
