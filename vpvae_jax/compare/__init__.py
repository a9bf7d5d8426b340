"""A grid of methods, codebook sizes and seeds: trained by one loop, scored by one evaluator, compared in tables."""
