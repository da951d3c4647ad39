"""A fine and a coarse slice of one tissue: a checkerboard of cell types whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from atlasnmf.errors import BadOption
from atlasnmf.events import SILENT, Events
from atlasnmf.options import Options, taking
from atlasnmf.seeds import rng_for, seed_for
from atlasnmf.simulate.programmes import gene_names, gene_programmes
from atlasnmf.simulate.sampling import alias_tables, sample_counts

__all__ = ["COARSE", "FINE", "Pair", "PairParams", "plan_pair", "simulate_pair"]

#: Names of the two tables.
FINE, COARSE = "xenium", "visium"
#: Distance of coarse spots on their hexagonal grid, and the area a cell takes (24 cells a spot).
PITCH_UM, CELL_UM2 = 100.0, 100.0**2 * np.sqrt(3) / 2 / 24
#: Mean panel counts of a cell at coverage 1, spread of its log, and mean counts of a coarse spot a gene.
_CELL_COUNTS, _CELL_SPREAD, _SPOT_COUNTS = 150.0, 0.5, 6.0
#: Share of every cell type's profile that all types have in common.
_COMMON = 0.4
#: Share that is the same for all genes, so that none is absent.
_EVERYWHERE = 0.02
_BLOCK = 8_192


class PairParams(Options):
    """What a pair is made of."""

    title: ClassVar[str] = "The pair"

    n_cells: int = Field(
        20_000, ge=1, description="Cells of the fine slice, on a square with 24 to a coarse spot."
    )
    n_genes: int = Field(1_000, ge=1, description="Genes of the coarse slice.")
    n_panel: int = Field(300, ge=1, description="Those of them that the fine slice has too.")
    grid: int = Field(
        20,
        ge=1,
        description="Squares of the checkerboard along a side, l in the paper; neighbours differ in type.",
    )
    n_types: int = Field(8, ge=2, description="Cell types, h in the paper.")
    coverage: float = Field(
        1.0, gt=0, description="Fine counts as a multiple of 150 per cell, rho in the paper."
    )
    mapping_noise: float = Field(
        0.0, ge=0, description="Standard deviation of the error of the cells' stored positions, um."
    )
    depth_variation: float = Field(
        0.0, ge=0, description="Standard deviation of a smooth field over the tissue on the log coarse depth."
    )
    scaling_spread: float = Field(
        0.5, ge=0, description="Standard deviation of the log platform scaling of a gene."
    )
    seed: int = Field(0, ge=0, description="Same seed, same store.")


@dataclass(frozen=True)
class Pair:
    """All of a made pair but its counts.

    Parameters
    ----------
    seed
        The seed all of it follows from.
    genes, panel
        Names of the coarse genes, and which of them the fine platform measures, bool, shape (G,).
    profiles
        q, cell types over the coarse genes, rows sum to 1, float64, shape (h, G).
    scaling
        What the coarse platform sees of a gene for each molecule that the fine one sees, float64, shape
        (G,); 1 outside the panel.
    cells, cells_seen
        Positions of the cells in micrometres, and where the fine table says they are, float64, shape
        (n, 2).
    types
        Type of each cell, int64, shape (n,).
    depths
        Mean counts of each cell over all genes, float64, shape (n,).
    spots
        Positions of the coarse spots, float64, shape (m, 2).
    spot_of
        Spot nearest to each cell, int64, shape (n,).
    mixtures
        Mean counts of each type in each spot before scaling, float64, shape (m, h).
    """

    seed: int
    genes: tuple[str, ...]
    panel: np.ndarray
    profiles: np.ndarray
    scaling: np.ndarray
    cells: np.ndarray
    cells_seen: np.ndarray
    types: np.ndarray
    depths: np.ndarray
    spots: np.ndarray
    spot_of: np.ndarray
    mixtures: np.ndarray

    @property
    def proportions(self) -> np.ndarray:
        """Share of each type in each spot's molecules, rows sum to 1, shape (m, h)."""
        return self.mixtures / self.mixtures.sum(axis=1, keepdims=True)


@taking(PairParams)
def plan_pair(params: PairParams) -> Pair:
    """Decide everything but the counts.

    Parameters
    ----------
    {options}

    Raises
    ------
    BadOption
        The sizes do not go together.

    Notes
    -----
    The simulation of Zheng, Sarkar and Raphael (Genome Res. 2025) with made profiles and positions in place
    of those of their breast cancer sections.

    Examples
    --------
    >>> pair = plan_pair(n_cells=2400, n_genes=100, n_panel=40, grid=4, n_types=3)
    >>> len(pair.cells), len(pair.spots), int(pair.panel.sum())
    (2400, 99, 40)
    """
    n_cells, n_genes, n_panel, seed = params.n_cells, params.n_genes, params.n_panel, params.seed
    grid, n_types = params.grid, params.n_types
    if n_genes < 2 * n_types:
        raise BadOption(f"--n-types: at most half of the {n_genes} genes (got {n_types})")
    if not 2 <= n_panel <= n_genes:
        raise BadOption(f"--n-panel: between 2 and the {n_genes} genes (got {n_panel})")
    if n_cells < 10 * 24:
        raise BadOption(f"--n-cells: 240 or more (got {n_cells})")
    side = np.sqrt(n_cells * CELL_UM2)
    cells = rng_for(seed, "pair", "cells").uniform(0.0, side, (n_cells, 2))
    board = _checkerboard(grid, n_types, rng_for(seed, "pair", "board"))
    square = np.minimum((cells / side * grid).astype(np.int64), grid - 1)
    types = board[square[:, 0], square[:, 1]]
    rng = rng_for(seed, "pair", "genes")
    own = gene_programmes(n_genes, n_types, seed=seed_for(seed, "pair", "profiles")).T
    own = (1 - _EVERYWHERE) * own + _EVERYWHERE / n_genes
    profiles = (1 - _COMMON) * own + _COMMON * own.mean(axis=0)
    panel = np.zeros(n_genes, bool)
    panel[rng.choice(n_genes, n_panel, replace=False)] = True
    scaling = np.where(panel, rng.lognormal(0.0, params.scaling_spread, n_genes), 1.0)
    rng = rng_for(seed, "pair", "depth")
    counts = params.coverage * _CELL_COUNTS * rng.lognormal(-(_CELL_SPREAD**2) / 2, _CELL_SPREAD, n_cells)
    depths = counts / profiles[:, panel].sum(axis=1)[types]
    spots = _hexagons(side)
    spot_of = _nearest(spots, cells)
    seen = cells + rng_for(seed, "pair", "noise").normal(0.0, params.mapping_noise, cells.shape)
    field = _smooth_field(spots / side, rng_for(seed, "pair", "field"))
    weights = depths * np.exp(params.depth_variation * field)[spot_of]
    mixtures = np.zeros((len(spots), n_types))
    np.add.at(mixtures, (spot_of, types), weights)
    mixtures *= _SPOT_COUNTS * n_genes * len(spots) / mixtures.sum()
    used = mixtures.sum(axis=1) > 0
    renamed = np.cumsum(used) - 1
    return Pair(
        seed=seed,
        genes=tuple(gene_names(n_genes)),
        panel=panel,
        profiles=profiles,
        scaling=scaling,
        cells=cells,
        cells_seen=seen,
        types=types,
        depths=depths,
        spots=spots[used],
        spot_of=renamed[spot_of],
        mixtures=mixtures[used],
    )


def _checkerboard(grid: int, n_types: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a type for every square unlike those on its left and below, shape (grid, grid)."""
    board = np.zeros((grid, grid), dtype=np.int64)
    for x in range(grid):
        for y in range(grid):
            taken = {int(board[x - 1, y])} if x else set()
            taken |= {int(board[x, y - 1])} if y else set()
            free = [k for k in range(n_types) if k not in taken]
            # of two types there may be none left: neighbours on a diagonal of a board of two are alike
            board[x, y] = rng.choice(free or [k for k in range(n_types)])
    return board


def _hexagons(side: float) -> np.ndarray:
    row = PITCH_UM * np.sqrt(3) / 2
    y = np.arange(row / 2, side, row)
    x = np.arange(PITCH_UM / 2, side, PITCH_UM)
    grid = [(x + PITCH_UM / 2 * (i % 2), np.full(len(x), at)) for i, at in enumerate(y)]
    return np.concatenate([np.column_stack(line) for line in grid])


def _nearest(spots: np.ndarray, cells: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree

    return cKDTree(spots).query(cells)[1].astype(np.int64)


def _smooth_field(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a sum of three waves over the unit square, of mean 0 and variance 1 in expectation."""
    waves = rng.normal(0.0, 3.0, (3, 2))
    phases = rng.uniform(0, 2 * np.pi, 3)
    return np.sqrt(2 / 3) * np.cos(points @ waves.T + phases).sum(axis=1)


@taking(PairParams)
def simulate_pair(
    out: Path | str, params: PairParams, *, overwrite: bool = False, events: Events = SILENT
) -> Path:
    """Write a store of a targeted fine slice and a whole-transcriptome coarse slice of one tissue.

    Parameters
    ----------
    out
        The store; it appears when it is whole.
    {options}
    overwrite
        Replace a store that is there.
    events
        Listener for progress.

    Returns
    -------
    pathlib.Path
        The store: tables ``xenium`` and ``visium``, int32 counts, ``obsm["spatial"]`` in micrometres. The
        truth: ``obs["cell_type"]``, ``obs["true_depth"]`` (mean counts of a cell over all genes),
        ``obsm["true_factors"]`` of cells and ``obsm["true_proportions"]`` of spots, ``varm["true_loadings"]``
        (columns sum to 1 over all coarse genes), ``var["platform_scaling"]``, ``uns["truth"]``.

    Raises
    ------
    BadOption
        The sizes do not go together, or the store exists.

    Examples
    --------
    >>> import atlasnmf as an
    >>> store = an.simulate_pair("made.zarr", n_cells=400, n_genes=60, n_panel=20, grid=4, n_types=3)
    >>> [len(table.var_names()) for table in an.open_atlas(store, tables=["xenium", "visium"]).tables]
    [20, 60]
    """
    from atlasnmf.store.writer import create_store

    pair = plan_pair(**dict(params))
    settings = params.model_dump(exclude={"n_cells", "n_genes", "n_panel"})
    out = Path(out)
    total = len(pair.cells) + len(pair.spots)
    with create_store(out, overwrite=overwrite) as store, events.stage("simulate", total) as advance:
        truth = {"simulator": "pair", "unit": "micrometre", "pitch": PITCH_UM, **settings}
        _write_fine(pair, store.table(FINE, n_genes=params.n_panel, dtype=np.int32), truth, advance)
        _write_coarse(pair, store.table(COARSE, n_genes=params.n_genes, dtype=np.int32), truth, advance)
    return out


def _write_fine(pair: Pair, table: Any, truth: dict[str, Any], advance: Any) -> None:
    import pandas as pd

    panel, n_types = pair.panel, len(pair.profiles)
    profiles = pair.profiles[:, panel]
    sums = profiles.sum(axis=1)
    tables = alias_tables(profiles / sums[:, None])
    means = pair.depths * sums[pair.types]
    totals = rng_for(pair.seed, "pair", "fine totals").poisson(means)
    stream = seed_for(pair.seed, "pair", "fine molecules")
    for start in range(0, len(pair.cells), _BLOCK):
        rows = slice(start, start + _BLOCK)
        factors = np.eye(n_types, dtype=np.float32)[pair.types[rows]]
        counts = sample_counts(factors, totals[rows], tables, seed=stream, first=start)
        table.append(counts, obsm={"spatial": pair.cells_seen[rows], "true_factors": factors})
        advance(len(factors))
    names = [f"type_{k + 1}" for k in range(n_types)]
    table.close(
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical.from_codes(pair.types.astype(np.int16), names),
                "true_depth": pair.depths,
            },
            index=[f"cell_{i}" for i in range(len(pair.cells))],
        ),
        var=pd.DataFrame(
            {"platform_scaling": pair.scaling[panel]},
            index=[gene for gene, inside in zip(pair.genes, panel, strict=True) if inside],
        ),
        varm={"true_loadings": profiles.T.copy()},
        uns={"truth": truth},
    )


def _write_coarse(pair: Pair, table: Any, truth: dict[str, Any], advance: Any) -> None:
    import pandas as pd

    seen = pair.profiles * pair.scaling
    sums = seen.sum(axis=1)
    tables = alias_tables(seen / sums[:, None])
    means = pair.mixtures * sums
    totals = rng_for(pair.seed, "pair", "coarse totals").poisson(means.sum(axis=1))
    factors = (means / means.sum(axis=1, keepdims=True)).astype(np.float32)
    stream = seed_for(pair.seed, "pair", "coarse molecules")
    for start in range(0, len(pair.spots), _BLOCK):
        rows = slice(start, start + _BLOCK)
        counts = sample_counts(factors[rows], totals[rows], tables, seed=stream, first=start)
        table.append(
            counts,
            obsm={"spatial": pair.spots[rows], "true_proportions": pair.proportions[rows].astype(np.float32)},
        )
        advance(len(counts.indptr) - 1)
    table.close(
        obs=pd.DataFrame(index=[f"spot_{i}" for i in range(len(pair.spots))]),
        var=pd.DataFrame({"platform_scaling": pair.scaling, "panel": pair.panel}, index=list(pair.genes)),
        varm={"true_loadings": pair.profiles.T.copy()},
        uns={"truth": truth},
    )
