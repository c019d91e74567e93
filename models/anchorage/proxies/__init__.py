"""Proxies: trainable stand-ins of the classes, and the logits of a batch against them."""
