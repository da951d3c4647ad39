"""staNMF: stability-driven non-negative matrix factorisation (Wu et al. 2016; osNMF)."""
