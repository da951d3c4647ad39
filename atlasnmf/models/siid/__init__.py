"""SIID: paired factorisation of a fine targeted and a coarse whole-transcriptome slice."""
