"""Chunk, combine, finalize over tiles, in threads or on a Dask cluster."""

from atlasnmf.reduce.reduction import Reduction, add
from atlasnmf.reduce.tiles import map_tiles, run_reduction, stream_tiles

__all__ = ["Reduction", "add", "map_tiles", "run_reduction", "stream_tiles"]
