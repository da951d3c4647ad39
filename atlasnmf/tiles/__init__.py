"""Runs of the Hilbert order: which spots are worked on together."""
