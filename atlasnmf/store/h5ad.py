"""Reading an h5ad file piece by piece: matrices in row blocks, everything else by its key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.schema import Csr
from atlasnmf.store.columns import row_blocks_of_columns
from atlasnmf.store.counts import in_order

__all__ = ["H5Matrix", "H5Table"]

#: Decoded bytes of a block of rows.
_BLOCK_BYTES = 32 * 10**6


class H5Matrix:
    """X or a layer of an h5ad file.

    Parameters
    ----------
    node
        The h5py group (sparse) or dataset (dense).
    where
        How messages name it.
    """

    def __init__(self, node: Any, where: str) -> None:
        self.where = where
        self._node = node
        self.is_dense = not hasattr(node, "keys")
        attrs = node.attrs
        if self.is_dense:
            self.layout, shape, self.dtype = "dense", node.shape, node.dtype
        else:
            encoding = str(attrs.get("encoding-type", attrs.get("h5sparse_format", "")))
            self.layout = encoding.removesuffix("_matrix")
            shape = attrs.get("shape", attrs.get("h5sparse_shape"))
            self.dtype = node["data"].dtype if "data" in node else np.dtype(np.float32)
        if self.layout not in ("csr", "csc", "dense") or shape is None or len(shape) != 2:
            raise BadInput(f"{where} is stored as {self.layout or 'nothing'!r}; it must be CSR, CSC or dense")
        self.n_rows, self.n_cols = int(shape[0]), int(shape[1])

    @property
    def nbytes(self) -> int:
        """Decoded bytes."""
        if self.is_dense:
            return self.n_rows * self.n_cols * self.dtype.itemsize
        return self._node["data"].shape[0] * (self.dtype.itemsize + 4)

    def blocks(self, scratch: Path) -> Iterator[Csr | np.ndarray]:
        """Yield the rows in order: sparse blocks, or arrays of a dense matrix; CSC goes through files."""
        if self.layout == "csc":
            indptr = self._node["indptr"][:].astype(np.int64)
            yield from row_blocks_of_columns(
                lambda start, stop: self._sparse(indptr, start, stop, self.n_rows),
                indptr,
                self.n_rows,
                scratch,
                8 * _BLOCK_BYTES,
            )
            return
        step = max(int(_BLOCK_BYTES * self.n_rows / max(self.nbytes, 1)), 1)
        indptr = None if self.is_dense else self._node["indptr"][:].astype(np.int64)
        for start in range(0, self.n_rows, step):
            stop = min(start + step, self.n_rows)
            if indptr is None:
                yield self._node[start:stop]
            else:
                yield self._sparse(indptr, start, stop, self.n_cols)

    def _sparse(self, indptr: np.ndarray, start: int, stop: int, n_cols: int) -> Csr:
        lo, hi = int(indptr[start]), int(indptr[stop])
        rows = Csr(
            indptr[start : stop + 1] - lo, self._node["indices"][lo:hi], self._node["data"][lo:hi], n_cols
        )
        return in_order(rows, self.where)


class H5Table:
    """An h5ad file, opened; close it by leaving its ``with`` block.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    BadInput
        It cannot be read as an h5ad file.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        self.path = path
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise BadInput(f"{path} cannot be read as an h5ad file ({error}); check the file") from None
        if not all(hasattr(self._file.get(axis), "keys") for axis in ("obs", "var")):
            self._file.close()
            raise BadInput(
                f"{path} is no h5ad file of anndata 0.7 or later; write it anew with AnnData.write_h5ad"
            )

    def __enter__(self) -> H5Table:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def names(self, axis: str) -> np.ndarray:
        """Return the index of obs or var, object array of str."""
        return (
            np.asarray(self.read(axis, self._file[axis].attrs["_index"]), dtype=object)
            .astype(str)
            .astype(object)
        )

    def read(self, *where: str) -> Any:
        """Return one element in memory."""
        from anndata.io import read_elem

        node: Any = self._file
        for name in where:
            node = node[name]
        return read_elem(node)

    def keys(self, group: str) -> list[str]:
        """Return the keys of a group, none when it is missing."""
        node = self._file.get(group)
        return sorted(node) if node is not None and hasattr(node, "keys") else []

    def array(self, group: str, key: str) -> Any | None:
        """Return a dense numeric dataset to read from, or None for anything else."""
        node = self._file[group][key]
        plain = not hasattr(node, "keys") and node.ndim == 2 and node.dtype.kind in "iufb"
        return node if plain else None

    def matrix(self, layer: str | None = None) -> H5Matrix:
        """Return X or a layer."""
        if layer is not None:
            return H5Matrix(self._file["layers"][layer], f"layer {layer!r} of {self.path}")
        node = self._file.get("X")
        if node is None or node.attrs.get("encoding-type") == "null":
            layers = self.keys("layers")
            mend = f"adata.X = adata.layers[{layers[0]!r}]" if layers else "adata = adata.raw.to_adata()"
            raise BadInput(f"{self.path} has no X; put the raw counts into X ({mend})")
        return H5Matrix(node, f"X of {self.path}")
