"""INSPIRE: many slices, one graph encoder, one non-negative factorisation (Zhao et al.)."""
