"""Subtypes of some cells of a pair: clusters of their imputed genes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.domains import assign_domains
from atlasnmf.analysis.values import TARGET_SUM
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import AtlasLike
    from atlasnmf.store.imputed import Imputed

__all__ = ["subtypes"]


def subtypes(
    atlas: AtlasLike,
    within: str,
    values: str | Sequence[str],
    *,
    key: str = "siid",
    genes: Sequence[str] | None = None,
    n_genes: int = 2000,
    n_components: int = 20,
    n_subtypes: int = 4,
    method: str = "leiden",
    key_added: str = "subtypes",
    overwrite: bool = False,
    random_state: int = 0,
) -> pd.Categorical:
    """Group some cells of a fitted pair by their imputed genes and write the groups to ``obs[key_added]``.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    within, values
        obs column of the fine table, and the values in it that name the cells to group, such as
        ``"siid_type", ["factor_3", "factor_8"]``.
    key
        The result of the pair.
    genes
        Genes to compare; those whose loadings differ most between factors when not given.
    n_genes
        How many, when ``genes`` are not given.
    n_components
        Components of the logarithm of the scaled counts, at most one less than the factors.
    n_subtypes, method
        Groups, by ``leiden`` or ``mixture``: see :func:`atlasnmf.tl.domains`.
    key_added, overwrite, random_state
        Column to write, whether to replace it, seed.

    Returns
    -------
    pandas.Categorical
        The column: ``"0"`` the largest subtype, missing for other cells.

    Raises
    ------
    BadInput
        No pair was fitted, or no cell has these values.
    BadOption
        No such column or gene, no number of genes, components or groups, or the column to write exists.

    Notes
    -----
    Imputed genes come from the factors in blocks of 64 MB, read twice; beside them the components of the
    cells are held, 8 bytes each, and a matrix of genes by genes.

    Examples
    --------
    >>> import atlasnmf as an
    >>> groups = an.tl.subtypes("pair.zarr", "cell_type", "type_1", n_subtypes=2, method="mixture")
    >>> groups.categories.tolist()
    ['0', '1']
    """
    import pandas as pd

    for name, value in {"n_genes": n_genes, "n_components": n_components, "n_subtypes": n_subtypes}.items():
        if value < 1:
            raise BadOption(f"{name} must be at least 1, got {value}")
    if genes is not None and not len(genes):
        raise BadOption("genes names none; name some, or leave it out for those that tell factors apart")
    found = opened(atlas)
    refuse_existing(found, obs=[key_added], overwrite=overwrite)
    lazy = found.imputed(list(genes) if genes is not None else _telling_genes(found, key, n_genes), key=key)
    table = lazy.table
    if within not in table.obs_columns():
        raise BadOption(no_such("obs column", within, table.obs_columns(), f"table {table.name!r}"))
    wanted = {values} if isinstance(values, str) else {str(value) for value in values}
    labels = pd.Series(table.obs_column(within)).astype(str)
    chosen = labels.isin(wanted).to_numpy()
    if not chosen.any():
        where = f"obs[{within!r}] of table {table.name!r}"
        raise BadInput(no_such("value", ", ".join(sorted(wanted)), sorted(set(labels)), where))
    rows, scores = _components(lambda: _logged(lazy, chosen), n_components)
    codes = np.full(table.n_spots, -1, np.int32)
    codes[rows] = assign_domains(
        scores,
        n_domains=n_subtypes,
        method=method,  # type: ignore[arg-type]
        random_state=random_state,
    )
    column = pd.Categorical.from_codes(codes, [str(group) for group in range(int(codes.max()) + 1)])
    with ResultWriter(found, overwrite=overwrite) as writer:
        writer.obs(key_added, {table.name: column})
    return column


def _telling_genes(atlas: Any, key: str, n_genes: int) -> list[str]:
    """Return the genes whose loadings vary most between factors for their mean."""
    for table in atlas.tables:
        if f"{key}_proportions" in table.keys("obsm"):
            break
    else:
        raise BadInput(f"{atlas.name} has no pair fitted under the name {key!r}; run atlasnmf fit siid")
    loadings = np.asarray(table.varm(f"{key}_loadings"), dtype=np.float64)
    means = loadings.mean(axis=1)
    spread = np.where(means > 0, loadings.var(axis=1) / np.where(means > 0, means, 1.0), -1.0)
    spread[~np.isfinite(spread)] = -1.0
    order = np.argsort(-spread, kind="stable")[:n_genes]
    return [str(gene) for gene in np.asarray(table.var_names())[order[spread[order] >= 0]]]


def _logged(lazy: Imputed, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the chosen cells with results of each block, and the logarithm of their scaled counts."""
    for start, block in lazy.blocks():
        inside = chosen[start : start + len(block)] & np.isfinite(block).all(axis=1)
        values = block[inside].astype(np.float64)
        sums = values.sum(axis=1, keepdims=True)
        yield start + np.flatnonzero(inside), np.log1p(TARGET_SUM * values / np.where(sums > 0, sums, 1.0))


def _components(
    blocks: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]], n_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells and their scores on the leading components, float32, shape (n, P)."""
    n_cells, sums, gram = 0, None, None
    for rows, values in blocks():
        n_cells += len(rows)
        sums = values.sum(axis=0) if sums is None else sums + values.sum(axis=0)
        gram = values.T @ values if gram is None else gram + values.T @ values
    if not n_cells or sums is None or gram is None:
        raise BadInput("none of the chosen cells has results; fit the pair again")
    centre = sums / n_cells
    spread, vectors = np.linalg.eigh(gram - n_cells * np.outer(centre, centre))
    kept = max(min(n_components, int((spread > 1e-9 * spread[-1]).sum())), 1)
    vectors = vectors[:, ::-1][:, :kept]
    parts = [(rows, ((values - centre) @ vectors).astype(np.float32)) for rows, values in blocks()]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])
