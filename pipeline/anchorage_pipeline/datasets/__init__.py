"""Sample data sets, built reproducibly from pinned packages of the package index."""
