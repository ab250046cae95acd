"""Training: batches, loss, schedule, loop, checkpoints."""
