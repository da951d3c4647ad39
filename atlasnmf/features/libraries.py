"""Log-normalised rows, made from counts as they are read and never stored."""

from __future__ import annotations

import numpy as np

from atlasnmf.features.neighbourhood import RandomRows
from atlasnmf.kernels.cpu.lognorm import log_normalise
from atlasnmf.schema import Csr

__all__ = ["LogCounts"]


class LogCounts:
    """log1p(scale * y / total), made from counts as rows are read.

    Parameters
    ----------
    counts
        Model-gene counts y, rows in working order.
    totals
        Counts of each spot over all genes in use, the model's or not (``Survey.totals``), shape (n,); kept
        as float32. Spots with 0 get zeros. The published INSPIRE leaves out genes found in few spots of a
        slice; with genes in fewer than 3 spots that is less than .1 % of the counts of real slices.
    scale
        Counts per spot after normalisation: 1e4, or 1e3 for imaging panels.
    """

    def __init__(self, counts: RandomRows, totals: np.ndarray, scale: float = 1e4) -> None:
        self.counts = counts
        self.totals = np.asarray(totals, dtype=np.float32)
        self.scale = float(scale)

    def read(self, start: int, stop: int) -> Csr:
        """Return rows ``start`` to ``stop``, float32 values."""
        return self._normalise(self.counts.read(start, stop), self.totals[start:stop])

    def read_rows(self, rows: np.ndarray) -> Csr:
        """Return any rows in any order, float32 values."""
        return self._normalise(self.counts.read_rows(rows), self.totals[rows])

    def _normalise(self, rows: Csr, totals: np.ndarray) -> Csr:
        values = log_normalise(rows.indptr, rows.data, totals, self.scale)
        return Csr(rows.indptr, rows.indices, values, rows.n_cols)
