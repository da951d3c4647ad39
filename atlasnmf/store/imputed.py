"""Imputed genes of a fitted pair, computed from its stored factors when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.names import no_such
from atlasnmf.store.tables import TableHandle

__all__ = ["Imputed", "imputed"]

_BLOCK_BYTES = 64 * 10**6


@dataclass(frozen=True)
class Imputed:
    """Mean counts of genes in the cells of a fine slice, as if its panel had them; holds loadings alone.

    Parameters
    ----------
    table
        Table of the fine slice.
    key
        Name of the result.
    genes
        Names of the columns.
    loadings
        Of these genes, float64, shape (n_genes, h).
    """

    table: TableHandle
    key: str
    genes: tuple[str, ...]
    loadings: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.table.n_spots, len(self.genes)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return a run of cells in the user's order, float32, shape (n, genes); NaN where there is no result.

        Notes
        -----
        2 n h genes operations; reads n rows of the factors.
        """
        depths = np.asarray(self.table.obs_column(f"{self.key}_depth"), dtype=np.float64)[start:stop]
        factors = self.table.obsm_rows(f"{self.key}_factors", start, stop).astype(np.float64)
        return ((factors * depths[:, None]) @ self.loadings.T).astype(np.float32)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first cell of every block of at most 64 MB, and the block."""
        rows = max(_BLOCK_BYTES // (8 * max(len(self.genes), 1)), 1)
        for start in range(0, self.shape[0], rows):
            yield start, self.read(start, min(start + rows, self.shape[0]))

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        """Return all of it."""
        whole = self.read(0, self.shape[0])
        return whole if dtype is None else whole.astype(dtype)  # type: ignore[call-overload, no-any-return]


def imputed(tables: Sequence[TableHandle], genes: str | Sequence[str], key: str, *, where: str) -> Imputed:
    """Return genes of the coarse slice in the cells of the fine one; see :meth:`Atlas.imputed`."""
    fine = [table for table in tables if f"{key}_factors" in table.keys("obsm")]
    coarse = [table for table in tables if f"{key}_proportions" in table.keys("obsm")]
    if len(fine) != 1 or len(coarse) != 1:
        raise BadInput(
            f"{where} has no pair fitted under the name {key!r}; run atlasnmf fit siid with --fine and "
            "--coarse"
        )
    names = (genes,) if isinstance(genes, str) else tuple(str(gene) for gene in genes)
    loadings = np.asarray(coarse[0].varm(f"{key}_loadings"), dtype=np.float64)
    names_of = coarse[0].var_names()
    known = {str(names_of[at]): at for at in np.flatnonzero(np.isfinite(loadings).all(axis=1)).tolist()}
    for name in names:
        if name not in known:
            raise BadOption(no_such("imputed gene", name, known, f"{key} of {where}"))
    return Imputed(fine[0], key, names, loadings[[known[name] for name in names]])
