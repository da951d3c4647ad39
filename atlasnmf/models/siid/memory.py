"""What a pass of SIID holds beside the rows that are read."""

from __future__ import annotations

from atlasnmf.kernels.cpu.em import padded_width
from atlasnmf.models.siid.holdout import folds_of
from atlasnmf.models.siid.params import FACTOR_LADDER, Params

__all__ = ["MEND", "fit_flops", "step_bytes"]

MEND = "ask for fewer --n-factors or --restarts"


def _lanes(params: Params) -> int:
    """Return how many fits share a pass at most."""
    folds = folds_of(params.holdout)
    fits = params.restarts if folds is None else folds + 1
    return max(fits, len(FACTOR_LADDER)) if params.n_factors == "auto" else fits


def _width(params: Params) -> int:
    return padded_width(FACTOR_LADDER[-1] if params.n_factors == "auto" else params.n_factors)


def step_bytes(params: Params, *, n_spots: float, n_genes: float, **sizes: float) -> float:
    """Return the bytes of a pass: what is kept of every spot, sums by gene of the tiles at work, the links.

    A restart that is left behind frees its rows only after the best one's are copied: a second set of one.
    """
    lanes, width = _lanes(params), _width(params)
    rows = n_spots * (4 * (lanes + 1) * (width + 2) + 8 * params.links * 3)
    by_gene = 8 * lanes * n_genes * width
    return rows + 8 * by_gene


def fit_flops(params: Params, *, n_spots: float, n_genes: float, nnz: float) -> float:
    """Return the operations of a fit at the passes that a tolerance of 5e-4 usually takes."""
    passes = min(params.passes, 60) if params.tol else params.passes
    lanes = 1 + (_lanes(params) - 1) * min(params.restart_passes / max(passes, 1), 1.0)
    return 6 * n_spots * nnz * _width(params) * lanes * passes * params.sweeps
