"""What is factorised: stored values or their logarithms, by tile, ready to be multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasnmf.kernels.cpu.lognorm import log_normalise
from atlasnmf.kernels.cpu.products import csr_dot, csr_t_dot
from atlasnmf.schema import Csr, SliceBatch

__all__ = ["Transform", "Values"]

#: From this share of non-zeros on, rows are multiplied as dense blocks: BLAS is that much faster (measured).
_DENSE_FROM = 0.3
#: Rows of such a block.
_BLOCK_ROWS = 512


@dataclass(frozen=True)
class Values:
    """Sparse rows X of some spots."""

    csr: Csr

    def dot(self, right: np.ndarray) -> np.ndarray:
        """Return X @ right, of the type of ``right``."""
        csr = self.csr
        if self._sparse:
            return csr_dot(csr.indptr, csr.indices, csr.data, right)
        out = np.empty((csr.n_rows, right.shape[1]), dtype=right.dtype)
        for start, block in self._blocks(right.dtype):
            np.matmul(block, right, out=out[start : start + len(block)])
        return out

    def t_dot(self, left: np.ndarray) -> np.ndarray:
        """Return X' @ left, of the type of ``left``."""
        csr = self.csr
        if self._sparse:
            return csr_t_dot(csr.indptr, csr.indices, csr.data, left, csr.n_cols, accumulate=left.dtype)
        total = np.zeros((csr.n_cols, left.shape[1]), dtype=left.dtype)
        for start, block in self._blocks(left.dtype):
            total += block.T @ left[start : start + len(block)]
        return total

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum and the sum of squares of every gene, float64, shape (G,) each."""
        values, genes = self.csr.data.astype(np.float64), self.csr.indices
        n_genes = self.csr.n_cols
        return np.bincount(genes, values, minlength=n_genes), np.bincount(genes, values**2, minlength=n_genes)

    @property
    def _sparse(self) -> bool:
        return self.csr.nnz < _DENSE_FROM * self.csr.n_rows * self.csr.n_cols

    def _blocks(self, kind: Any) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, self.csr.n_rows, _BLOCK_ROWS):
            rows = self.csr.rows(start, min(start + _BLOCK_ROWS, self.csr.n_rows))
            yield start, rows.to_scipy().astype(kind).toarray()


@dataclass(frozen=True)
class Transform:
    """From stored values to what is factorised.

    Parameters
    ----------
    kind
        ``log``: log1p(target_sum * y / total of the spot), rounded to float32; ``none``: as they are.
    target_sum
        Counts a spot is scaled to.
    dtype
        Type of the values.
    """

    kind: str
    target_sum: float
    dtype: Any = np.float32

    def __call__(self, batch: SliceBatch) -> Values:
        """Return the values of a batch's spots."""
        counts = batch.counts
        values = counts.data
        if self.kind == "log":
            values = log_normalise(counts.indptr, counts.data, batch.totals, self.target_sum)
        return Values(Csr(counts.indptr, counts.indices, values.astype(self.dtype), counts.n_cols))
