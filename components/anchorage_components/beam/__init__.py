"""Distributed jobs with Beam: embedding, and exact evaluation of large galleries."""
