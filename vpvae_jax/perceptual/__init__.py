"""Frozen networks that losses and metrics use, and the one reader of their weights."""
