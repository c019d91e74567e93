"""Work that Beam spreads: embedding, and exact evaluation of galleries beyond one machine."""
