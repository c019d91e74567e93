"""`anchorage serve`: searches of a release, a gallery that changes, and the model, over HTTP and gRPC."""
