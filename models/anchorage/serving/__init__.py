"""What a release does: the exported network, and search by image."""
