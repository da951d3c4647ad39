"""Gathering gene images voxel by voxel and filling what is missing, gene by gene, through a scratch file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.events import Events
from atlasnmf.features.fill import NOTHING_HIDDEN, FillScore, fill_missing, hidden_score
from atlasnmf.reduce.tiles import stream_tiles
from atlasnmf.seeds import rng_for
from atlasnmf.store.volumes import GeneVolumes

__all__ = ["Filled", "GeneFile", "VolumeOptions", "fill_genes", "gather_genes"]

#: What published volumes mark a missing value with.
MISSING = -1.0


@dataclass(frozen=True)
class VolumeOptions:
    """How missing values are treated.

    Parameters
    ----------
    n_neighbors
        Measured voxels a missing one is filled from, weighted by one over their distance.
    drop_share
        Voxels missing in this share of the genes or more are left out.
    holdout
        Share of the measured values of each gene that are hidden to score the filling; 0 for no score.
    seed
        Of the choice of what is hidden.
    workers
        Threads that fill, each holding a gene; all cores when not given. They change no bit.

    Raises
    ------
    BadOption
        A value is out of range.
    """

    n_neighbors: int = 6
    drop_share: float = 0.95
    holdout: float = 0.05
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.n_neighbors < 1:
            raise BadOption(f"neighbours must be at least 1, got {self.n_neighbors}; 6 is usual")
        if not 0 < self.drop_share <= 1:
            raise BadOption(f"the share of missing genes must lie in (0, 1], got {self.drop_share}")
        if not 0 <= self.holdout < 1:
            raise BadOption(f"the holdout must lie in [0, 1), got {self.holdout}; 0.05 is usual")


class GeneFile:
    """Values of all genes in a scratch file, one gene after the other; a gene or a run of it in memory.

    Reading and writing name their place, so that threads may do it side by side.

    Parameters
    ----------
    path
        The file, made here.
    n_voxels
        Room for each gene.
    """

    def __init__(self, path: Path, n_voxels: int) -> None:
        self.n_voxels = n_voxels
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def write(self, gene: int, row: np.ndarray) -> None:
        """Keep the values of a gene, at most ``n_voxels``, from the first place on."""
        left = memoryview(np.asarray(row, np.float32).tobytes())
        place = 4 * gene * self.n_voxels
        while left:  # a disk that is nearly full takes a part
            n_written = os.pwrite(self._file, left, place)
            left, place = left[n_written:], place + n_written

    def read(self, gene: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return a run of a gene's values, float32."""
        stop = self.n_voxels if stop is None else stop
        place = 4 * (gene * self.n_voxels + start)
        return np.frombuffer(os.pread(self._file, 4 * (stop - start), place), np.float32)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def gather_genes(volumes: GeneVolumes, inside: np.ndarray, values: GeneFile, events: Events) -> np.ndarray:
    """Read every gene into its row, NaN where missing; return how many genes lack each voxel."""
    missing_in = np.zeros(values.n_voxels, np.int64)
    n_negative = 0
    with events.stage("read volumes", total=len(volumes.genes), unit="genes") as advance:
        for gene, name in enumerate(volumes.genes):
            row = volumes.image(gene)[inside].astype(np.float32)
            if np.isinf(row).any():
                raise BadInput(
                    f"gene {name!r} has infinite values inside the mask; mark missing ones NaN or -1"
                )
            row[row == MISSING] = np.nan
            negative = row < 0
            n_negative += int(negative.sum())
            row[negative] = 0.0
            missing_in += np.isnan(row)
            values.write(gene, row)
            advance(1)
    if n_negative:
        events.warn(f"{n_negative} negative values inside the mask are set to 0 (missing ones are NaN or -1)")
    return missing_in


@dataclass(frozen=True)
class Filled:
    """What filling did to each gene: whether it is usable, its share of missing values and its score."""

    usable: np.ndarray
    missing: np.ndarray
    r2: np.ndarray
    score: FillScore


def fill_genes(
    values: GeneFile,
    kept: np.ndarray,
    positions: np.ndarray,
    options: VolumeOptions,
    genes: Sequence[str],
    events: Events,
) -> Filled:
    """Fill every gene in its place, at the voxels kept, and score the filling on hidden values.

    Parameters
    ----------
    values
        What :func:`gather_genes` left; afterwards each gene has its values at the kept voxels first.
    kept
        Voxels that stay, bool, shape (n,).
    positions
        Theirs, shape (n_kept, 3).
    options
        Neighbours, holdout, threads.
    genes
        Names.
    events
        Told of every gene.

    Raises
    ------
    BadInput
        No gene is measured anywhere.
    """

    def fill(gene: int) -> tuple[float, FillScore]:
        row = values.read(gene)[kept]
        share, score = float(np.isnan(row).mean()), NOTHING_HIDDEN
        if 0 < share < 1:
            rng = rng_for(options.seed, "fill", "holdout", gene)
            score = hidden_score(row, positions, rng, share=options.holdout, n_neighbors=options.n_neighbors)
            row = fill_missing(row, positions, n_neighbors=options.n_neighbors)
        values.write(gene, row)
        return share, score

    missing, r2, total = np.ones(len(genes)), np.full(len(genes), np.nan), NOTHING_HIDDEN
    workers = options.workers or os.cpu_count() or 1
    with events.stage("fill missing values", total=len(genes), unit="genes") as advance:
        for gene, (share, score) in enumerate(stream_tiles(fill, range(len(genes)), n_workers=workers)):
            missing[gene] = share
            if score.n:
                r2[gene] = score.r2
            total = total + score
            advance(1)
    usable = missing < 1
    if not usable.any():
        raise BadInput("no gene has a measured voxel inside the mask; check the mask and the images")
    if not usable.all():
        names = [genes[gene] for gene in np.flatnonzero(~usable).tolist()]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        events.warn(f"no voxel measured in {', '.join(names[:5])}{more}: left out")
    return Filled(usable, missing, r2, total)
