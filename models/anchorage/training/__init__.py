"""What surrounds a loss while it trains: optimizers, the fit loop, checkpoints."""
