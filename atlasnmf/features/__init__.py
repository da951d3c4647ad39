"""What a model sees of the counts: quality, genes, libraries, neighbourhood sums, components."""
