"""What is factorised: stored values or their logarithms, by tile, ready to be multiplied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from atlasnmf.kernels.cpu.lognorm import log_normalise
from atlasnmf.kernels.cpu.products import csr_dot, csr_t_dot
from atlasnmf.kernels.dispatch import carrier, free_bytes, kernel, namespace, side_of, to_host
from atlasnmf.schema import Csr, SliceBatch

__all__ = ["DeviceValues", "KeptValues", "ReadyValues", "Transform", "Values"]

#: From this share of non-zeros on, rows are multiplied as dense blocks: BLAS is that much faster (measured).
_DENSE_FROM = 0.3
#: Rows of such a block; on a device, its bytes.
_BLOCK_ROWS, _DEVICE_BLOCK_BYTES = 512, 256 * 2**20
#: Share of a device's free memory that kept values may take.
_DEVICE_SHARE = 0.5


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

    def gram(self) -> np.ndarray:
        """Return X'X, of the type of the values, shape (G, G)."""
        total = np.zeros((self.csr.n_cols,) * 2, dtype=self.csr.data.dtype)
        for _, block in self._blocks(total.dtype):
            total += block.T @ block
        return total

    @property
    def _sparse(self) -> bool:
        return self.csr.nnz < _DENSE_FROM * self.csr.n_rows * self.csr.n_cols

    def _blocks(self, kind: Any) -> Iterator[tuple[int, np.ndarray]]:
        for start in range(0, self.csr.n_rows, _BLOCK_ROWS):
            rows = self.csr.rows(start, min(start + _BLOCK_ROWS, self.csr.n_rows))
            yield start, rows.to_scipy().astype(kind).toarray()


class ReadyValues:
    """Rows X of some spots that are multiplied often: laid out once for both products.

    Genes that most spots have are a dense block for BLAS. The others stay sparse, by spot and by gene.

    Parameters
    ----------
    csr
        The rows.
    """

    def __init__(self, csr: Csr) -> None:
        rows, n_spots = csr.to_scipy(), csr.n_rows
        often = rows.getnnz(axis=0) >= _DENSE_FROM * n_spots
        self._often, self._shape = np.flatnonzero(often), (n_spots, csr.n_cols)
        self._dense = np.empty((n_spots, len(self._often)), dtype=csr.data.dtype)
        self._moments = Values(csr).moments()
        seldom = ~often[csr.indices]
        starts = np.concatenate([[0], np.cumsum(seldom)])[csr.indptr]
        self._sparse = Csr(starts, csr.indices[seldom].astype(np.int32), csr.data[seldom], csr.n_cols)
        self._by_gene = []
        for start, stop in self._blocks():
            self._dense[start:stop] = rows[start:stop][:, self._often].toarray()
            columns = self._sparse.rows(start, stop).to_scipy().tocsc()
            self._by_gene.append((columns.indptr.astype(np.int64), columns.indices, columns.data))

    def dot(self, right: np.ndarray) -> np.ndarray:
        """Return X @ right, of the type of ``right``."""
        out = csr_dot(self._sparse.indptr, self._sparse.indices, self._sparse.data, right)
        if len(self._often):
            often = right[self._often]
            for start, stop in self._blocks():
                out[start:stop] += self._dense[start:stop] @ often
        return out

    def t_dot(self, left: np.ndarray) -> np.ndarray:
        """Return X' @ left, of the type of ``left``."""
        out = np.zeros((self._shape[1], left.shape[1]), dtype=left.dtype)
        for (start, stop), columns in zip(self._blocks(), self._by_gene, strict=True):
            csr_dot(*columns, left[start:stop], out=out)
        if len(self._often):
            out[self._often] = self._dense.T @ left
        return out

    def gram(self) -> np.ndarray:
        """Return X'X, of the type of the values, shape (G, G)."""
        total = np.zeros((self._shape[1],) * 2, dtype=self._dense.dtype)
        for start, stop in self._blocks():
            block = self._sparse.rows(start, stop).to_scipy().toarray()
            block[:, self._often] = self._dense[start:stop]
            total += block.T @ block
        return total

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum and the sum of squares of every gene, float64, shape (G,) each."""
        sums, squares = self._moments
        return sums.copy(), squares.copy()  # parts may be added to

    def _blocks(self) -> list[tuple[int, int]]:
        n_spots = self._shape[0]
        return list(pairwise([*range(0, n_spots, _BLOCK_ROWS), n_spots]))


class KeptValues:
    """The values of tiles that are gone over again and again, ready to be multiplied; in one process.

    Passes over such tiles are made :meth:`here <atlasnmf.batches.passes.Pass.here>`.
    On a device they stay there as long as they take no more than half of what was free of its memory.
    """

    def __init__(self) -> None:
        self._tiles: dict[tuple[int, int], ReadyValues] = {}
        self._there: dict[tuple[int, int], DeviceValues] = {}
        self._room: float | None = None

    def of(self, rows: np.ndarray, values: Any) -> ReadyValues:
        """Return the values of a run of rows, made by ``values()`` when they are first asked for."""
        key = int(rows[0]), len(rows)
        if key not in self._tiles:
            self._tiles[key] = ReadyValues(values().csr)
        return self._tiles[key]

    def there(self, rows: np.ndarray, device: str, values: Callable[[], DeviceValues]) -> DeviceValues:
        """Return the values of a run of rows on a device; they travel once where they fit."""
        key = int(rows[0]), len(rows)
        if key in self._there:
            return self._there[key]
        if self._room is None:
            self._room = _DEVICE_SHARE * free_bytes(device)
        made = values()
        if made.nbytes <= self._room:
            self._room -= made.nbytes
            self._there[key] = made
        return made

    def forget(self) -> None:
        """Give back all that is kept."""
        self._tiles.clear()
        self._there.clear()
        self._room = None


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
        self._device, self._starts = device, counts.indptr
        self._sparse = counts.nnz < _DENSE_FROM * counts.n_rows * counts.n_cols
        self._parts = [self._there(part) for part in (counts.indptr, counts.indices, counts.data)]
        self._n_genes = counts.n_cols
        if totals is not None:
            starts, _, values = self._parts
            self._parts[2] = kernel("lognorm", device).log_normalise(
                starts, values, self._there(totals), target_sum
            )
        self._parts[2] = self._parts[2].astype(dtype)
        self._turned: tuple[Any, Any, Any] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes on the device: the rows, and once multiplied from the left the same by gene."""
        values = self._parts[2]
        by_gene = values.nbytes + 4 * values.size + 8 * self._n_genes
        return sum(int(part.nbytes) for part in self._parts) + int(by_gene)

    def dot(self, right: np.ndarray) -> np.ndarray:
        """Return X @ right, of the type of ``right``."""
        there = self._there(right)
        if self._sparse:
            return to_host(self._products.csr_dot(*self._parts, there))
        out = namespace(self._device).empty((len(self._starts) - 1, right.shape[1]), dtype=right.dtype)
        for start, block in self._blocks(right.dtype):
            out[start : start + len(block)] = block @ there
        return to_host(out)

    def t_dot(self, left: np.ndarray) -> np.ndarray:
        """Return X' @ left, of the type of ``left``."""
        there = self._there(np.ascontiguousarray(left))
        if self._sparse:
            # sorted by gene once, however often the values are gone over
            self._turned = self._turned or self._products.transpose(*self._parts, self._n_genes)
            return to_host(self._products.csr_dot(*self._turned, there))
        total = namespace(self._device).zeros((self._n_genes, left.shape[1]), dtype=left.dtype)
        for start, block in self._blocks(left.dtype):
            total += block.T @ there[start : start + len(block)]
        return to_host(total)

    def gram(self) -> np.ndarray:
        """Return X'X, of the type of the values, shape (G, G)."""
        kind = self._parts[2].dtype
        total = namespace(self._device).zeros((self._n_genes,) * 2, dtype=kind)
        for _, block in self._blocks(kind):
            total += block.T @ block
        return to_host(total)

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sum and the sum of squares of every gene, float64, shape (G,) each."""
        indptr, indices, data = map(to_host, self._parts)
        return Values(Csr(indptr, indices, data, self._n_genes)).moments()

    def _blocks(self, kind: Any) -> Iterator[tuple[int, Any]]:
        """Write runs of rows out on the device; sparse rows alone came over."""
        indptr, indices, data = self._parts
        fill_dense = kernel("dense", self._device).fill_dense
        step = max(_DEVICE_BLOCK_BYTES // (np.dtype(kind).itemsize * max(self._n_genes, 1)), 1)
        for start in range(0, len(self._starts) - 1, step):
            ends = indptr[start : start + step + 1]
            lo, hi = int(self._starts[start]), int(self._starts[start + len(ends) - 1])
            block = namespace(self._device).empty((len(ends) - 1, self._n_genes), dtype=kind)
            fill_dense(ends - lo, indices[lo:hi], data[lo:hi], block)
            yield start, block


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
    kept
        Where the values of tiles stay between passes; None makes them anew in each. Not sent to other
        processes: those of a device are made anew there, to the same bits.
    """

    kind: str
    target_sum: float
    dtype: Any = np.float32
    device: str = "cpu"
    kept: KeptValues | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.kept is not None and side_of(self.device) == "cpu":
            raise TypeError("values that are kept in this process are multiplied here: take Pass.here()")
        return Transform, (self.kind, self.target_sum, self.dtype, self.device)

    def __call__(self, batch: SliceBatch) -> Values | ReadyValues | DeviceValues:
        """Return the values of a batch's spots, ready to be multiplied."""
        if side_of(self.device) == "cpu":
            if self.kept is None:
                return self.on_host(batch)
            return self.kept.of(batch.rows, partial(self.on_host, batch))
        totals = batch.totals if self.kind == "log" else None
        make = partial(DeviceValues, batch.counts, totals, self.target_sum, self.dtype, self.device)
        return make() if self.kept is None else self.kept.there(batch.rows, self.device, make)

    def on_host(self, batch: SliceBatch) -> Values:
        """Return the values of a batch's spots in this process's memory."""
        counts = batch.counts
        values = counts.data
        if self.kind == "log":
            values = log_normalise(counts.indptr, counts.data, batch.totals, self.target_sum)
        return Values(Csr(counts.indptr, counts.indices, values.astype(self.dtype), counts.n_cols))
