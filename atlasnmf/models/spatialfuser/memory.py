"""What a step of SpatialFuser holds, and the largest run of spots a budget allows. Light: no torch here."""

from __future__ import annotations

from itertools import pairwise

from atlasnmf.errors import BadOption
from atlasnmf.models.spatialfuser.params import CANDIDATES, OWN_COMPONENTS, Params
from atlasnmf.tiles.plan import expected_halo

__all__ = ["MEND", "fit_flops", "settle", "step_bytes"]

MEND = "use fewer spots per step (--batch-spots)"
#: Arrays of a layer's width that wait for the backward pass, its gradients included.
_LAYER_ARRAYS = 9
#: Arrays of the features: input, reconstruction, difference, gradient.
_FEATURE_ARRAYS = 5
#: Bytes of an edge and head: share, gate, prior and their gradients; and of the edge itself.
_HEAD_BYTES, _EDGE_BYTES = 24, 24
#: A weight, its gradient and two moments.
_WEIGHT_BYTES = 16
#: Bytes kept of every spot beside its embeddings (position, flags, order), and of a candidate pair;
#: candidates of a spot at most, half of them counted from either side.
_SPOT_BYTES, _PAIR_BYTES, _SPOT_PAIRS = 64, 40, 160
#: What a row costs in a step beside its products (edges, normalisations, reading), and a candidate pair in a
#: matching, in operations of a dense product: measured at a million spots.
_ROW_FLOPS, _PAIR_FLOPS = 60_000, 8000
#: Tiles are no larger than this: they hold their halo several times over, and caches hold no more.
_LARGEST_TILE = 8192
_SMALLEST_TILE = 256


def step_bytes(
    params: Params, *, n_rows: float, n_spots: float, n_genes: float, nnz: float, mean_degree: float
) -> float:
    """Plan the memory of a step beside the rows it is given, an upper estimate.

    Parameters
    ----------
    params
        The parameters.
    n_rows
        Core spots of the step, over all slices.
    n_spots
        Spots of the atlas, all of whose embeddings are held.
    n_genes, nnz
        Genes, and mean number of non-zero ones of a spot.
    mean_degree
        Mean neighbours of a spot, itself included.
    """
    features = params.components if params.features == "scores" else n_genes
    widths = params.hidden
    rows = n_rows
    if n_rows < n_spots:
        rows = expected_halo(max(int(n_rows), 1), 2 * params.depth, mean_degree=mean_degree)
    floats = _FEATURE_ARRAYS * features + _LAYER_ARRAYS * sum(widths)
    degree = mean_degree + (params.far_neighbors if params.alpha else 0)
    edges = degree * (_EDGE_BYTES + len(widths) * params.heads * _HEAD_BYTES)
    weights = sum(a * b for a, b in zip((features, *widths), (*widths, 0), strict=True)) + sum(
        w * w for w in widths
    )
    kept = n_spots * (8 * widths[-1] + 4 * OWN_COMPONENTS + _SPOT_BYTES)
    if params.alpha:  # rows of whole slices and their gradients, by layer of encoder and decoder
        kept += n_spots * 16 * sum(widths)
    if params.fuse_steps:
        kept += _PAIR_BYTES * min(_SPOT_PAIRS * n_spots, CANDIDATES)
    return rows * (4 * floats + edges) + _WEIGHT_BYTES * weights + kept


def settle(
    params: Params, *, n_spots: int, n_genes: int, nnz: float, array_bytes: int
) -> tuple[Params, str | None]:
    """Choose between whole slices and tiles in a step by what fits the budget."""
    if params.batch_spots != "auto":
        return params, None
    sizes = {"n_spots": n_spots, "n_genes": n_genes, "nnz": nnz, "mean_degree": 8.0}
    whole = step_bytes(params, n_rows=n_spots, **sizes)
    room = 0.6 * array_bytes
    if whole <= room:
        return params.model_copy(update={"batch_spots": max(n_spots, 8)}), (
            f"whole slices in every step ({whole / 1e9:.1f} GB of {array_bytes / 1e9:.1f} GB)"
        )
    if params.alpha:
        raise BadOption(
            f"--alpha averages over whole slices, {whole / 1e9:.1f} GB of {array_bytes / 1e9:.1f} GB; "
            "raise --memory-budget or leave --alpha out"
        )
    spots = _LARGEST_TILE
    while spots > _SMALLEST_TILE and step_bytes(params, n_rows=2 * spots, **sizes) > room:
        spots //= 2
    return params.model_copy(update={"batch_spots": spots}), (
        f"tiles of {spots} spots of a slice in a step: whole slices need {whole / 1e9:.1f} GB "
        f"of {array_bytes / 1e9:.1f} GB"
    )


def fit_flops(params: Params, *, n_spots: float, n_genes: float, nnz: float) -> float:
    """Return the operations of a fit."""
    features = params.components if params.features == "scores" else n_genes
    widths = (features, *params.hidden)
    weights = sum(a * b / params.heads for a, b in pairwise(widths))
    weights = 2 * weights + sum(width**2 for width in params.hidden)
    rows = n_spots if params.batch_spots == "auto" else min(n_spots, 2 * params.batch_spots)
    steps = params.pretrain_steps + params.fuse_steps
    epoch = n_spots / max(rows, 1)
    n_matchings = 1 + params.fuse_steps / max(params.match_every, epoch) if params.fuse_steps else 0
    pairs = min(_SPOT_PAIRS * n_spots, CANDIDATES)
    return rows * steps * (6 * weights + _ROW_FLOPS) + n_matchings * pairs * _PAIR_FLOPS
