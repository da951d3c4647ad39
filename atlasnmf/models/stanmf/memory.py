"""What a study holds, and which form of it fits a memory budget. Light: nothing is built."""

from __future__ import annotations

from atlasnmf.budget import format_bytes
from atlasnmf.models.stanmf.params import (
    OVERSAMPLED,
    START_ITERATIONS,
    Params,
    sketch_width,
    stack_width,
)

__all__ = ["MEND", "fit_flops", "holds_gene_gram", "settle", "step_bytes"]

#: What to do when not even the smallest form fits.
MEND = "lower --ranks or --replicates"
#: Share of the budget's arrays that a study may hold; the rest is for tiles and for rows of the atlas.
_SHARE = 0.75
#: A sketch pays from this many times fewer operations on, since some iterations still read the data.
_LEAST_GAIN = 2.0
#: Iterations from an anchor to the next on the average.
_USUAL_GAP = 6
#: Arrays of genes x columns that live at the same time: coefficients, weighted, swept, sums, and scratch.
_GENE_ARRAYS = 8
#: Arrays of learned spots x columns that the anchors note, every fit of a stack as wide as the widest.
_NOTED_SPOTS = 4
#: Bytes of a kept value: itself and its place, twice; or its share of a dense block that is filled this much.
_PLACE_BYTES, _DENSE_FROM = 4, 0.3
#: How many times faster dense products are than sparse ones, an operation (measured).
_DENSE_GAIN = 3
#: Double precision arrays of genes x genes that live at the same time: a sum, parts of it, and what is kept.
_GRAM_ARRAYS = 4


def settle(params: Params, *, n_spots: int, n_genes: int, nnz: float, array_bytes: int) -> tuple[Params, str]:
    """Choose the fastest form of a study that fits; the exact one where a sketch saves little.

    Parameters
    ----------
    params
        With choices open.
    n_spots, n_genes, nnz
        Shape of the data, and mean number of non-zeros of a spot.
    array_bytes
        Memory for arrays.

    Returns
    -------
    params
        With every choice made; if nothing fits, the smallest form.
    reason
        One line for people.
    """
    room = int(_SHARE * array_bytes)
    sketch_pays = _sketch_gain(params, n_spots, n_genes, nnz) > _LEAST_GAIN
    for form in _forms(params, sketch_pays):
        if step_bytes(form, n_spots=n_spots, n_genes=n_genes, nnz=nnz) <= room:
            break
    return form, _reason(form, step_bytes(form, n_spots=n_spots, n_genes=n_genes, nnz=nnz), room)


def _sketch_gain(params: Params, n_spots: int, n_genes: int, nnz: float) -> float:
    """Return how many times fewer operations an iteration on the sketch takes than one on the data."""
    learned = min(params.learn_spots or n_spots, n_spots)
    rank = sum(params.ranks) / len(params.ranks)
    width = sum(stack_width(params, each) for each in params.ranks) / len(params.ranks)
    on_sketch = (learned + n_genes) * (4 * width + 8 * rank)
    return 4 * learned * nnz / on_sketch


def _forms(params: Params, sketch_pays: bool) -> list[Params]:
    """Return the forms that agree with what the user said, the fastest first."""
    paths: tuple[str, ...] = (params.path,)
    if params.path == "auto":
        paths = ("compressed", "exact") if sketch_pays else ("exact",)
    keeps = ("keep", "recompute") if params.keep_patterns == "auto" else (params.keep_patterns,)
    forms = []
    for path in paths:
        for keep in keeps:
            if path == "compressed" and keep == "recompute":
                continue  # anchors are as large as the patterns
            chosen = {"path": path, "keep_patterns": keep, "sketch_width": sketch_width(params)}
            for together in _stacks(params, path):
                for values in _values(params):
                    more = {"ranks_together": together, "keep_values": values}
                    forms.append(params.model_copy(update={**chosen, **more}))
    last = {"path": "exact", "keep_patterns": "recompute", "keep_values": _values(params)[-1]}
    return forms or [params.model_copy(update=last)]


def _values(params: Params) -> tuple[str, ...]:
    return ("keep", "reread") if params.keep_values == "auto" else (params.keep_values,)


def _stacks(params: Params, path: str) -> list[int]:
    if params.ranks_together is not None:
        return [params.ranks_together]
    if path == "compressed" or params.warm_ranks:
        return [1]
    return list(range(len(params.ranks), 0, -1))


def holds_gene_gram(params: Params, *, n_spots: int, n_genes: int, nnz: float) -> bool:
    """Say whether the starts of all fits are found from X'X, which is taken once.

    Where this is fewer operations than to go over the values again for every fit, and where these are kept
    and X'X has no more entries than there are of them.

    Parameters
    ----------
    params
        Settled.
    n_spots, n_genes, nnz
        Shape of the data, and mean number of non-zeros of a spot.
    """
    learned = min(params.learn_spots or n_spots, n_spots)
    if params.keep_values == "reread" or n_genes**2 > learned * nnz:
        return False
    if params.perturbation == "seeds" or learned < n_genes:
        return False
    ranks = params.ranks[:1] if params.warm_ranks else params.ranks
    columns = START_ITERATIONS * sum(rank + OVERSAMPLED for rank in ranks) * params.replicates
    over_spots = 2 * learned * columns * min(_DENSE_GAIN * nnz, n_genes)
    return n_genes**2 * (learned / 2 + columns) < over_spots


def step_bytes(params: Params, *, n_spots: int, n_genes: int, nnz: float = 0.0, **_: float) -> float:
    """Plan the memory that a study holds beside the rows it is given.

    Parameters
    ----------
    params
        Settled or not; open choices are taken as the largest form.
    n_spots, n_genes, nnz
        Shape of the data, and mean number of non-zeros of a spot.
    """
    item = 4 if params.precision == "single" else 8
    together = params.ranks_together or 1
    columns = sum(params.ranks[-together:]) * params.replicates
    last = params.ranks[-1]
    learned = min(params.learn_spots or n_spots, n_spots)
    kept = last if params.keep_patterns == "recompute" else columns
    stacked = last * together * params.replicates
    noted = 0.0 if params.path == "exact" else stacked * _NOTED_SPOTS * item
    if params.keep_values != "reread":
        noted += nnz * max(2 * (item + _PLACE_BYTES), item / _DENSE_FROM)
    per_spot = item * (sketch_width(params) + kept)
    if params.perturbation == "spots":
        per_spot += params.replicates * together
    held = holds_gene_gram(params, n_spots=n_spots, n_genes=n_genes, nnz=nnz)
    by_gene = n_genes * columns * item * _GENE_ARRAYS + held * _GRAM_ARRAYS * 8 * n_genes**2
    return n_spots * per_spot + learned * noted + by_gene


def fit_flops(params: Params, *, n_spots: int, n_genes: int, nnz: float) -> float:
    """Estimate the operations of a study, every fit taking all its iterations."""
    columns = sum(params.ranks) * params.replicates
    squares = sum(rank**2 for rank in params.ranks) * params.replicates
    exact = params.max_iterations
    on_sketch = 0
    if params.path != "exact":
        exact = min(exact, params.exact_iterations + exact // _USUAL_GAP)
        on_sketch = params.max_iterations - exact
    width = stack_width(params, params.ranks[-1])
    learned = min(params.learn_spots or n_spots, n_spots)
    data = exact * 4 * learned * nnz * columns
    sketch = on_sketch * 4 * (learned + n_genes) * width * columns
    sweeps = params.max_iterations * 4 * (learned + n_genes) * squares
    if learned < n_spots:
        data += 2 * params.last_iterations * 4 * n_spots * nnz * columns
    return data + sketch + sweeps


def _reason(form: Params, needed: float, room: int) -> str:
    if form.path == "compressed":
        what = "iterations on a sketch in memory, and some on the data"
    elif form.keep_patterns == "keep":
        what = f"iterations on the data, {form.ranks_together} ranks in a pass, patterns kept"
    else:
        what = f"iterations on the data, {form.ranks_together} ranks in a pass, patterns found anew each time"
    return f"{what} ({format_bytes(needed)} of {format_bytes(room)})"
