"""Ranks: the world they form, what they share and exchange, and who owns what."""
