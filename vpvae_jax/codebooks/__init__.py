"""Codes from latents, after training: k-means, lattices, and how much of a codebook is in use."""
