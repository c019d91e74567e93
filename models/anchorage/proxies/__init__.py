"""Proxies, the trainable representatives of the classes, and the logits of a batch against them."""
