"""Ranks: world, shared memory, exchange, shards."""
