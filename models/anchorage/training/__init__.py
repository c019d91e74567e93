"""The training loop, optimizers, learning-rate schedules and checkpoints."""
