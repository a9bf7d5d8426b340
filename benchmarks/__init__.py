"""Timings against peers, as JSON lines."""
