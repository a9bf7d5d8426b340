"""State, step, checkpoints and the loop that ties them together."""
