"""Turning latents into codes, after training."""
