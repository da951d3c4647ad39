"""What a training step of INSPIRE holds, before anything is built. Light: no torch here."""

from __future__ import annotations

from atlasnmf.models.inspire.params import Params, encoder_of, needs

__all__ = ["step_bytes"]

#: Columns of a discriminator's layers, and how many of them wait for the backward pass.
_ADVERSARY, _ADVERSARY_LAYERS = 512, 4
#: Layers of ``hidden`` columns that wait for the backward pass, its scratch included.
_HIDDEN_LAYERS = 5
#: Arrays of one message an edge that attention keeps, the scratch of one slice included.
_MESSAGES = 1.5
#: Bytes of a count on its way through features, factorisation and their gradients.
_COUNT_BYTES = 20
#: A weight, its gradient and two moments.
_WEIGHT_BYTES = 16
#: Sums over neighbours are about this much denser than counts.
_SMOOTHED_FILL = 4


def step_bytes(
    params: Params, *, n_rows: int, n_spots: int, n_genes: int, nnz: float, mean_degree: float
) -> float:
    """Plan the memory of a training step beside the rows it is given, an upper estimate.

    Parameters
    ----------
    params
        The parameters.
    n_rows
        Core spots of the step, over all slices.
    n_spots
        Spots of the atlas: they decide ``encoder="auto"``.
    n_genes
        Genes of the model.
    nnz
        Mean number of non-zero model genes of a spot.
    mean_degree
        Mean neighbours of a spot, itself included.

    Returns
    -------
    float
        Bytes: activations that wait for the backward pass, weights and moments.

    Notes
    -----
    Held against the growth of a process from 256 to 4096 spots a slice (4 slices, 1000 genes, 512 columns):
    planned 1.6 to 2.4 times the measured 0.16 GB (averages) and 0.30 GB (attention) with scores, 0.31 GB and
    0.66 GB with genes. The rest is for what allocators keep.

    Examples
    --------
    >>> size = {"n_spots": 10**6, "n_genes": 2000, "nnz": 200.0, "mean_degree": 8.0}
    >>> round(step_bytes(Params(), n_rows=8192, **size) / 1e6)
    193
    """
    wanted = needs(params, n_spots)
    floats: float = _HIDDEN_LAYERS * params.hidden + 3 * wanted.n_components * (wanted.component_hops + 1)
    floats += _ADVERSARY_LAYERS * _ADVERSARY if params.gan_weight else 0
    if encoder_of(params, n_spots) == "gat":
        attentions = 1 if params.features == "scores" else 2
        floats += _MESSAGES * attentions * mean_degree * params.hidden
    row_bytes = 4 * floats + _COUNT_BYTES * nnz * (1 + _SMOOTHED_FILL * wanted.hops)
    gene_layers = 0 if params.features == "scores" else wanted.hops + 2
    return n_rows * row_bytes + _WEIGHT_BYTES * params.hidden * n_genes * gene_layers
