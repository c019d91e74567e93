"""What losses over pairs share: masks, references, walks over positives in blocks, reducers."""
