"""What is factorised: stored values or their logarithms, by tile, ready to be multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from atlasnmf.kernels.cpu.lognorm import log_normalise
from atlasnmf.kernels.cpu.products import csr_dot, csr_t_dot
from atlasnmf.kernels.dispatch import carrier, kernel, side_of, to_host
from atlasnmf.schema import Csr, SliceBatch

__all__ = ["DeviceValues", "Transform", "Values"]

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


class DeviceValues:
    """Sparse rows X of some spots on a device; what is multiplied comes from the host and goes back there.

    Parameters
    ----------
    counts
        The rows as stored: 16-bit counts and columns travel as they are and are widened on the device.
    totals
        Counts per spot, for logarithms; None leaves the values as they are.
    target_sum, dtype
        As in :class:`Transform`.
    device
        A CUDA device.
    """

    def __init__(
        self, counts: Csr, totals: np.ndarray | None, target_sum: float, dtype: Any, device: str
    ) -> None:
        self._there, self._products = carrier(device), kernel("products", device)
        self._parts = [self._there(part) for part in (counts.indptr, counts.indices, counts.data)]
        self._n_genes = counts.n_cols
        if totals is not None:
            starts, _, values = self._parts
            self._parts[2] = kernel("lognorm", device).log_normalise(
                starts, values, self._there(totals), target_sum
            )
        self._parts[2] = self._parts[2].astype(dtype)

    def dot(self, right: np.ndarray) -> np.ndarray:
        """Return X @ right, of the type of ``right``."""
        return to_host(self._products.csr_dot(*self._parts, self._there(right)))

    def t_dot(self, left: np.ndarray) -> np.ndarray:
        """Return X' @ left, of the type of ``left``."""
        there = self._there(np.ascontiguousarray(left))
        return to_host(self._products.csr_t_dot(*self._parts, there, self._n_genes, accumulate=left.dtype))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum and the sum of squares of every gene, float64, shape (G,) each."""
        indptr, indices, data = map(to_host, self._parts)
        return Values(Csr(indptr, indices, data, self._n_genes)).moments()


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
    device
        Where they are multiplied.
    """

    kind: str
    target_sum: float
    dtype: Any = np.float32
    device: str = "cpu"

    def __call__(self, batch: SliceBatch) -> Values | DeviceValues:
        """Return the values of a batch's spots, ready to be multiplied."""
        if side_of(self.device) == "cpu":
            return self.on_host(batch)
        totals = batch.totals if self.kind == "log" else None
        return DeviceValues(batch.counts, totals, self.target_sum, self.dtype, self.device)

    def on_host(self, batch: SliceBatch) -> Values:
        """Return the values of a batch's spots in this process's memory."""
        counts = batch.counts
        values = counts.data
        if self.kind == "log":
            values = log_normalise(counts.indptr, counts.data, batch.totals, self.target_sum)
        return Values(Csr(counts.indptr, counts.indices, values.astype(self.dtype), counts.n_cols))
