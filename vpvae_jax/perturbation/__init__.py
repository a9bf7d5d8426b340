"""The sampler: a memory of recent latents and one Metropolis-Hastings step inside their distribution."""
