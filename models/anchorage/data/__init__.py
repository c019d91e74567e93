"""From bytes to batches: decoding, the packed record store, samplers."""
