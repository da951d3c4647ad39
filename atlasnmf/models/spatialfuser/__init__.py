"""SpatialFuser: graph attention on edges, transport between slices, contrastive fusion."""
