"""Data loading: listing, image decoding, the packed record store, samplers and batches."""
