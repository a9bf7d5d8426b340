"""Methods, codebook sizes and seeds compared: trained with one loop, scored by one evaluator, tabled."""
