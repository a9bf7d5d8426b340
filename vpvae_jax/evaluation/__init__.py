"""One evaluator and one report for every method."""
