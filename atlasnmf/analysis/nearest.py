"""Nearest neighbours in an embedding, through faiss."""

from __future__ import annotations

from typing import Any

import numpy as np

from atlasnmf.errors import BadOption

__all__ = ["Nearest", "faiss_index", "need"]

#: Up to here every pair is compared; beyond, only those in nearby cells of a coarse partition.
_EXACT_ROWS = 5_000
#: Cells searched of an inverted file.
N_CELLS_SEARCHED = 16


def need(module: str, purpose: str, otherwise: str = "") -> Any:
    """Import a package of the extra ``analysis``.

    Parameters
    ----------
    module
        Its name.
    purpose
        What needs it.
    otherwise
        What does without it, to end the message.

    Raises
    ------
    BadOption
        It is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise BadOption(
            f"{purpose} needs the package {module}; install it with: pip install 'atlasnmf[analysis]'"
            f"{otherwise}"
        ) from None


def faiss_index(rows: np.ndarray, purpose: str, otherwise: str = "", *, exact: bool = False) -> Any:
    """Return a faiss index of float32 rows under the Euclidean distance; ``exact`` compares every pair."""
    faiss = need("faiss", purpose, otherwise)
    n_rows, n_dims = rows.shape
    if exact or n_rows <= _EXACT_ROWS:
        index = faiss.IndexFlatL2(n_dims)
    else:
        # faiss warns below 39 rows a cell
        n_cells = min(int(4 * np.sqrt(n_rows)), n_rows // 40)
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(n_dims), n_dims, n_cells)
        index.train(rows)
        index.nprobe = N_CELLS_SEARCHED
    index.add(rows)
    return index


class Nearest:
    """Finds the nearest of some rows.

    Parameters
    ----------
    rows
        Shape (n, p), finite.
    purpose
        What needs it, for the message where faiss is missing.
    exact
        Compare every pair however many rows there are.

    Notes
    -----
    Exact up to 5,000 rows; beyond by an inverted file of about ``4 sqrt(n)`` cells of which 16 are searched.
    """

    def __init__(self, rows: np.ndarray, purpose: str, *, exact: bool = False) -> None:
        self.n_rows = len(rows)
        self._index = faiss_index(np.ascontiguousarray(rows, np.float32), purpose, exact=exact)

    def search(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return Euclidean distances, float32, and numbers of the nearest rows, int64, shape (m, k).

        Numbers are -1 (and distances infinite) where fewer than k were found.
        """
        squares, near = self._index.search(np.ascontiguousarray(rows, np.float32), k)
        return np.where(near >= 0, np.sqrt(np.maximum(squares, 0)), np.inf).astype(np.float32), near
