"""Shared code of the pair losses: masks, references, loops over positives in blocks, reducers."""
