"""The sampler: a memory of recent latents, and moves that keep latents inside their distribution."""
