"""Training: state, optimizer, step, metrics, checkpoints, and the loop that ties them together."""
