"""What a trained space is worth, and how it is searched."""
