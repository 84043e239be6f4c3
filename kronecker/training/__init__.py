"""Training: state, optimizer, step, metrics, checkpoints, and the loop that uses them."""
