"""Measurements against peers in one run, as JSON lines: `python -m benchmarks.NAME [--smoke]`."""
