"""Sparse rows that torch can differentiate through, without a dense copy of the spots x genes array.

Two forms with one interface: :class:`HostRows` holds numpy arrays and runs the numba kernels;
:class:`DeviceRows` holds tensors and runs torch's sparse products, on any device.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from atlasnmf.batches.device import sent
from atlasnmf.kernels.cpu import dense as dense_rows
from atlasnmf.kernels.cpu import poisson, products
from atlasnmf.kernels.cpu.lognorm import log_normalise
from atlasnmf.schema import Csr

__all__ = ["DeviceRows", "HostRows", "SparseRows", "sparse_rows", "stack_rows"]


class SparseRows(ABC):
    """Constant sparse rows, shape (n, G)."""

    shape: tuple[int, int]

    @abstractmethod
    def first(self, n_rows: int) -> SparseRows:
        """Return the first rows; values are views."""

    @abstractmethod
    def log_normalised(self, totals: Any, scale: float) -> SparseRows:
        """Return log1p(scale * y / total of the spot) at the non-zeros; spots without counts stay empty."""

    @abstractmethod
    def unit_rows(self) -> SparseRows:
        """Return the rows divided by their Euclidean norms; empty rows stay empty."""

    @abstractmethod
    def row_sums(self, *, squared: bool = False) -> Tensor:
        """Return the sum of each row, or of its squares, shape (n,)."""

    @abstractmethod
    def column_sums(self) -> Tensor:
        """Return the sum of each column, shape (G,)."""

    @abstractmethod
    def dense(self) -> Tensor:
        """Return the rows written out where they are, shape (n, G): 4 bytes for every spot and gene."""

    @abstractmethod
    def forward_dot(self, dense: Tensor) -> Tensor:
        """Return rows @ dense, shape (n, p), without a gradient."""

    @abstractmethod
    def transposed_dot(self, dense: Tensor) -> Tensor:
        """Return rows' @ dense, shape (G, p), without a gradient."""

    def dot(self, dense: Tensor) -> Tensor:
        """Return rows @ dense, shape (n, p), differentiable in ``dense`` (G, p)."""
        return _Dot.apply(self, dense)

    def log_likelihood(self, weights: Tensor, loadings: Tensor, floor: float) -> Tensor:
        """Return ``sum_ig y_ig log(w_i . m_g + floor)`` over the non-zeros, differentiable in both."""
        return _LogLikelihood.apply(self, weights, loadings, floor)

    @abstractmethod
    def likelihood_parts(
        self, weights: Tensor, loadings: Tensor, floor: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the value of :meth:`log_likelihood` and its gradients, shapes (n, K) and (G, K)."""


def sparse_rows(rows: Csr, device: torch.device, dtype: torch.dtype = torch.float32) -> SparseRows:
    """Take rows to where products are made; rows on a device already stay there."""
    if device.type == "cpu" and isinstance(rows.data, np.ndarray):
        return HostRows(rows.indptr, rows.indices, rows.data, rows.n_cols, dtype)
    return DeviceRows(
        _tensor(rows.indptr, device),
        _tensor(rows.indices, device),
        _tensor(rows.data, device).to(dtype),
        rows.n_cols,
    )


def _tensor(array: Any, device: torch.device) -> Tensor:
    made: Tensor = sent(array, device) if isinstance(array, np.ndarray) else array.to(device)
    return made


class HostRows(SparseRows):
    """Rows in host memory; see :class:`SparseRows`.

    Parameters
    ----------
    indptr, indices, data
        CSR parts; indices of any integer type, data of any type.
    n_cols
        Number of columns G.
    dtype
        float32 in training; float64 in tests of exactness.
    """

    def __init__(
        self,
        indptr: np.ndarray,
        indices: np.ndarray,
        data: np.ndarray,
        n_cols: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.indptr, self.indices = indptr, indices
        self.data = data.astype(np.float64 if dtype == torch.float64 else np.float32, copy=False)
        self.shape = (len(indptr) - 1, n_cols)
        self.dtype = dtype
        self._dense: Tensor | None = None
        self._libraries: list[Tensor | None] = [None, None]

    def with_data(self, data: np.ndarray) -> HostRows:
        """Return rows with the same pattern and other values."""
        return HostRows(self.indptr, self.indices, data, self.shape[1], self.dtype)

    @override
    def first(self, n_rows: int) -> HostRows:
        if n_rows == self.shape[0]:
            return self
        stop = int(self.indptr[n_rows])
        return HostRows(
            self.indptr[: n_rows + 1], self.indices[:stop], self.data[:stop], self.shape[1], self.dtype
        )

    @override
    def log_normalised(self, totals: Any, scale: float) -> HostRows:
        return self.with_data(log_normalise(self.indptr, self.data, np.asarray(totals), scale))

    @override
    def unit_rows(self) -> HostRows:
        norms = np.sqrt(self.row_sums(squared=True).numpy())
        scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
        return self.with_data(self.data * np.repeat(scale, np.diff(self.indptr)))

    @override
    def row_sums(self, *, squared: bool = False) -> Tensor:
        values = np.square(self.data) if squared else self.data
        sums = np.zeros(self.shape[0], self.data.dtype)
        filled = np.diff(self.indptr) > 0
        if filled.any():
            sums[filled] = np.add.reduceat(values, self.indptr[:-1][filled])
        return torch.from_numpy(sums)

    @override
    def column_sums(self) -> Tensor:
        return torch.from_numpy(poisson.column_sums(self.indices, self.data, self.shape[1]))

    @override
    def dense(self) -> Tensor:
        values = np.empty(self.shape, self.data.dtype)
        dense_rows.fill_dense(self.indptr, self.indices, self.data, values)
        return torch.from_numpy(values)

    @override
    def forward_dot(self, dense: Tensor) -> Tensor:
        if dense.shape[1] >= _WIDE:
            if self._is_full():
                return self._as_dense() @ dense.detach()
            if _MKL:
                return _by_blocks(self._library(transposed=False), dense.detach())
        return torch.from_numpy(products.csr_dot(self.indptr, self.indices, self.data, _plain(dense)))

    @override
    def transposed_dot(self, dense: Tensor) -> Tensor:
        if dense.shape[1] >= _WIDE:
            if self._is_full():
                return self._as_dense().T @ dense.detach()
            if _MKL:
                return _by_blocks(self._library(transposed=True), dense.detach())
        plain = _plain(dense)
        return torch.from_numpy(
            products.csr_t_dot(
                self.indptr, self.indices, self.data, plain, self.shape[1], accumulate=plain.dtype
            )
        )

    @override
    def likelihood_parts(
        self, weights: Tensor, loadings: Tensor, floor: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        value, grad_weights, grad_loadings = poisson.log_likelihood(
            self.indptr, self.indices, self.data, _plain(weights), _plain(loadings), floor
        )
        return weights.new_tensor(value), torch.from_numpy(grad_weights), torch.from_numpy(grad_loadings)

    def _is_full(self) -> bool:
        return len(self.data) > _FULL * self.shape[0] * self.shape[1]

    def _as_dense(self) -> Tensor:
        if self._dense is None:
            self._dense = self.dense()
        return self._dense

    def _library(self, *, transposed: bool) -> Tensor:
        """Return the rows as MKL takes them, with 32-bit indices: half the time of 64."""
        made = self._libraries[transposed]
        if made is None:
            rows: Any = Csr(self.indptr, self.indices, self.data, self.shape[1]).to_scipy()
            if transposed:
                rows = rows.T.tocsr()
            made = torch.sparse_csr_tensor(
                torch.from_numpy(rows.indptr.astype(np.int32)),
                torch.from_numpy(rows.indices.astype(np.int32)),
                torch.from_numpy(rows.data),
                rows.shape,
                check_invariants=False,
            )
            self._libraries[transposed] = made
        return made


def stack_rows(parts: Sequence[SparseRows]) -> SparseRows:
    """Put rows of one form under each other."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, HostRows):
        hosts = [part for part in parts if isinstance(part, HostRows)]
        ends = np.cumsum([0, *(len(part.data) for part in hosts)])
        starts = [part.indptr[:-1] + end for part, end in zip(hosts, ends[:-1], strict=True)]
        return HostRows(
            np.concatenate([*starts, ends[-1:]]),
            np.concatenate([part.indices for part in hosts]),
            np.concatenate([part.data for part in hosts]),
            first.shape[1],
            first.dtype,
        )
    devices = [part for part in parts if isinstance(part, DeviceRows)]
    lengths = torch.cat([part.indptr.diff() for part in devices])
    return DeviceRows(
        torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        torch.cat([part.column for part in devices]),
        torch.cat([part.value for part in devices]),
        first.shape[1],
    )


class DeviceRows(SparseRows):
    """Rows as tensors of one device; see :class:`SparseRows`.

    Parameters
    ----------
    indptr, column
        Row starts and columns, integer tensors.
    value
        Values of the non-zeros, a floating tensor.
    n_cols
        Number of columns G.
    """

    #: Non-zeros gathered at once by :meth:`likelihood_parts`: bounds the scratch at 3 x CHUNK x K values.
    CHUNK = 1 << 20

    def __init__(self, indptr: Tensor, column: Tensor, value: Tensor, n_cols: int) -> None:
        self.indptr, self.column, self.value = indptr.long(), column.long(), value
        self.shape = (len(indptr) - 1, n_cols)
        self._row: Tensor | None = None

    @property
    def row(self) -> Tensor:
        """Row of every non-zero."""
        if self._row is None:
            lengths = self.indptr.diff()
            rows = torch.arange(len(lengths), device=lengths.device)
            # the size is known: nothing waits for the device to count
            self._row = rows.repeat_interleave(lengths, output_size=len(self.column))
        return self._row

    def with_value(self, value: Tensor) -> DeviceRows:
        """Return rows with the same pattern and other values."""
        rows = DeviceRows(self.indptr, self.column, value, self.shape[1])
        rows._row = self._row
        return rows

    @override
    def first(self, n_rows: int) -> DeviceRows:
        if n_rows == self.shape[0]:
            return self
        stop = int(self.indptr[n_rows])
        return DeviceRows(self.indptr[: n_rows + 1], self.column[:stop], self.value[:stop], self.shape[1])

    @override
    def log_normalised(self, totals: Any, scale: float) -> DeviceRows:
        factor = scale / torch.as_tensor(totals, device=self.value.device, dtype=self.value.dtype)
        factor = torch.where(factor.isfinite(), factor, torch.zeros_like(factor))
        return self.with_value(torch.log1p(self.value * factor[self.row]))

    @override
    def unit_rows(self) -> DeviceRows:
        norms = self.row_sums(squared=True).sqrt()
        scale = torch.where(norms > 0, 1 / norms, torch.zeros_like(norms))
        return self.with_value(self.value * scale[self.row])

    @override
    def row_sums(self, *, squared: bool = False) -> Tensor:
        values = self.value.square() if squared else self.value
        return values.new_zeros(self.shape[0]).index_add(0, self.row, values)

    @override
    def column_sums(self) -> Tensor:
        return self.value.new_zeros(self.shape[1]).index_add(0, self.column, self.value)

    @override
    def dense(self) -> Tensor:
        values = self.value.new_zeros(self.shape)
        values[self.row, self.column] = self.value
        return values

    @override
    def forward_dot(self, dense: Tensor) -> Tensor:
        # columns ascend within rows: devices need not sort before they multiply
        places = torch.stack([self.row, self.column])
        return torch.sparse.mm(self._coo(places, self.shape, ordered=True), dense.detach())

    @override
    def transposed_dot(self, dense: Tensor) -> Tensor:
        places = torch.stack([self.column, self.row])
        return torch.sparse.mm(self._coo(places, self.shape[::-1], ordered=False), dense.detach())

    @override
    def likelihood_parts(
        self, weights: Tensor, loadings: Tensor, floor: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights, loadings = weights.detach(), loadings.detach()
        grad_weights, grad_loadings = torch.zeros_like(weights), torch.zeros_like(loadings)
        total = weights.new_zeros(())
        for start in range(0, len(self.value), self.CHUNK):
            part = slice(start, start + self.CHUNK)
            row, column, count = self.row[part], self.column[part], self.value[part]
            here, there = weights[row], loadings[column]
            rate = (here * there).sum(1) + floor
            total = total + (count * rate.log()).sum()
            ratio = (count / rate)[:, None]
            grad_weights.index_add_(0, row, ratio * there)
            grad_loadings.index_add_(0, column, ratio * here)
        return total, grad_weights, grad_loadings

    def _coo(self, places: Tensor, shape: tuple[int, int], *, ordered: bool) -> Tensor:
        return torch.sparse_coo_tensor(
            places, self.value, shape, check_invariants=False, is_coalesced=ordered or None
        )


def _by_blocks(rows: Tensor, dense: Tensor) -> Tensor:
    out = dense.new_empty(rows.shape[0], dense.shape[1])
    for start in range(0, dense.shape[1], _BLOCK):
        out[:, start : start + _BLOCK] = rows @ dense[:, start : start + _BLOCK].contiguous()
    return out


def _mkl_works() -> bool:
    """Try MKL's sparse product once, and let torch say once, unheard, that its CSR tensors are young."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            eye = torch.sparse_csr_tensor(
                torch.tensor([0, 1], dtype=torch.int32), torch.tensor([0], dtype=torch.int32), torch.ones(1)
            )
            return bool(torch.backends.mkl.is_available()) and float(eye @ torch.ones(1, 1)) == 1.0
        except RuntimeError:
            return False


#: From this many dense columns on, another library than our kernels pays for itself (measured, AVX-512).
_WIDE = 128
#: Columns of dense that MKL multiplies at a time: the block stays in the second-level cache, twice as fast.
_BLOCK = 64
#: Rows fuller than this are multiplied faster as a dense matrix of the batch.
_FULL = 0.2
_MKL = _mkl_works()


def _plain(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().numpy())


class _Dot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: SparseRows, dense: Tensor) -> Tensor:
        ctx.rows = rows
        return rows.forward_dot(dense)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, ctx.rows.transposed_dot(grads[0])


class _LogLikelihood(torch.autograd.Function):
    """Value and gradients in one pass over the non-zeros: the backward pass only scales them."""

    @staticmethod
    def forward(ctx: Any, rows: SparseRows, weights: Tensor, loadings: Tensor, floor: float) -> Tensor:
        value, *gradients = rows.likelihood_parts(weights, loadings, floor)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, Tensor, None]:
        grad_weights, grad_loadings = ctx.saved_tensors
        return None, grads[0] * grad_weights, grads[0] * grad_loadings, None
