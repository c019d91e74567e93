"""Limits on images, the same wherever one is read."""

MAX_BYTES = 64 * 2**20  # of a file
MAX_PIXELS = 50_000_000  # width times height
