"""Neighbour search by XLA, on any of its platforms."""
