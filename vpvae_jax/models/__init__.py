"""Flax networks around the bottleneck."""
