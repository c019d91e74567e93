"""Search over hyperparameters."""
