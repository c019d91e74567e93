"""Export of the trained encoder, and image search in a release."""
