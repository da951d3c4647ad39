"""Slices of a growing embryo with known organs, factors and gene programmes, streamed to a store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from atlasnmf.errors import BadOption
from atlasnmf.events import SILENT, Events
from atlasnmf.options import Options, taking
from atlasnmf.schema import Csr
from atlasnmf.seeds import rng_for, seed_for
from atlasnmf.simulate.anatomy import PITCH_UM, Anatomy, body_positions, plan_anatomy
from atlasnmf.simulate.programmes import gene_effects, gene_names, gene_programmes
from atlasnmf.simulate.sampling import alias_tables, sample_counts, spot_factors

__all__ = ["Embryo", "SpotBlock", "plan_embryo", "simulate_embryo", "slice_blocks"]

#: Spread of a spot's factors around its place's mean (Dirichlet), and of its depth (gamma).
_CONCENTRATION, _DEPTH_SHAPE = 25.0, 6.0
_MIN_SPOTS = 10


class EmbryoParams(Options):
    """What an embryo is made of."""

    title: ClassVar[str] = "The embryo"

    n_spots: int = Field(
        20_000, ge=1, description="Spots over all slices; the last slice has twice as many as the first."
    )
    n_slices: int = Field(4, ge=1, description="Slices of different age, growing like an embryo.")
    n_genes: int = Field(1_000, ge=1, description="Genes, all measured in all slices.")
    n_factors: int = Field(
        12, ge=1, description="Spatial factors with sparse gene programmes, and domains, the organs."
    )
    seed: int = Field(0, ge=0, description="Same seed, same store.")


@dataclass(frozen=True)
class Embryo:
    """Everything about a made embryo but its spots.

    Parameters
    ----------
    seed
        The seed all of it follows from.
    slices
        Names of the slices, which are the names of their tables.
    n_spots
        Spots of each slice, growing, int64, shape (S,).
    genes
        Names of the genes.
    anatomy
        Outlines and organs; domain d is where factor d is strongest.
    loadings
        The gene programmes, columns sum to 1, float64, shape (G, K).
    effects
        Log fold of each gene in each slice, float64, shape (S, G).
    depths
        Mean counts of a spot in each slice, float64, shape (S,).
    side_mixture
        What domains hold beside their own factor, rows sum to 1, float64, shape (K, K).
    """

    seed: int
    slices: tuple[str, ...]
    n_spots: np.ndarray
    genes: tuple[str, ...]
    anatomy: Anatomy
    loadings: np.ndarray
    effects: np.ndarray
    depths: np.ndarray
    side_mixture: np.ndarray


@dataclass(frozen=True)
class SpotBlock:
    """A run of spots of one slice, in raster order.

    Parameters
    ----------
    start
        Number of the first spot within the slice.
    counts
        int32 counts, n rows, G columns.
    names
        Names of the spots, unique over all slices, shape (n,).
    domain
        Domain of each spot, index into ``anatomy.names``, int32, shape (n,).
    factors
        True proportions, rows sum to 1, float32, shape (n, K).
    spatial
        Coordinates in micrometres, float64, shape (n, 2).
    """

    start: int
    counts: Csr
    names: np.ndarray
    domain: np.ndarray
    factors: np.ndarray
    spatial: np.ndarray


@taking(EmbryoParams)
def plan_embryo(params: EmbryoParams) -> Embryo:
    """Decide everything but the spots; a spot holds about ``0.3 * n_genes`` molecules (at least 60).

    Parameters
    ----------
    {options}

    Raises
    ------
    BadOption
        Fewer than 10 spots a slice, or fewer genes than twice the factors.

    Examples
    --------
    >>> embryo = plan_embryo(n_spots=3000, n_slices=2, n_genes=100, n_factors=5)
    >>> embryo.slices, embryo.n_spots.tolist()
    (('slice_1', 'slice_2'), [1000, 2000])
    """
    n_spots, n_slices, n_genes = params.n_spots, params.n_slices, params.n_genes
    n_factors, seed = params.n_factors, params.seed
    if n_spots < 2 * _MIN_SPOTS * n_slices:
        raise BadOption(
            f"{n_spots} spots are too few for {n_slices} slices; ask for at least "
            f"{2 * _MIN_SPOTS * n_slices} (--n-spots) or fewer slices (--n-slices)"
        )
    if n_genes < 2 * n_factors:
        raise BadOption(
            f"{n_genes} genes are too few for {n_factors} factors; ask for at least {2 * n_factors} "
            "(--n-genes)"
        )
    # Cumulative shares rounded, so that the sizes add up.
    growth = np.linspace(1.0, 2.0, n_slices) if n_slices > 1 else np.ones(1)
    ends = np.rint(np.cumsum(growth) / growth.sum() * n_spots).astype(np.int64)
    width = len(str(n_slices))
    anatomy = plan_anatomy(n_factors, n_slices, seed=seed)
    depths = max(0.3 * n_genes, 60.0) * rng_for(seed, "embryo", "depth").lognormal(0.0, 0.2, n_slices)
    return Embryo(
        seed=seed,
        slices=tuple(f"slice_{s + 1:0{width}d}" for s in range(n_slices)),
        n_spots=np.diff(ends, prepend=0),
        genes=tuple(gene_names(n_genes)),
        anatomy=anatomy,
        loadings=gene_programmes(n_genes, n_factors, seed=seed),
        effects=np.stack([gene_effects(n_genes, s, seed=seed) for s in range(n_slices)]),
        depths=depths,
        side_mixture=_side_mixture(anatomy, seed=seed),
    )


def _side_mixture(anatomy: Anatomy, *, seed: int) -> np.ndarray:
    """Half the surrounding domain's factor, the rest two others that occur in every slice."""
    rng = rng_for(seed, "embryo", "mixture")
    n_domains = len(anatomy.names)
    common = np.flatnonzero(anatomy.only_slice < 0)
    mixture = np.zeros((n_domains, n_domains))
    for d in range(n_domains):
        mixture[d, anatomy.parents[d]] += 0.5
        others = common[(common != d) & (common != anatomy.parents[d])]
        for k in rng.permutation(others)[:2]:
            mixture[d, k] += 0.25
    return mixture / mixture.sum(axis=1, keepdims=True)


def slice_blocks(embryo: Embryo, slice_index: int, *, block_spots: int = 8_192) -> Iterator[SpotBlock]:
    """Make the spots of one slice, block by block; the spots do not depend on the size of the blocks.

    Parameters
    ----------
    embryo
        From :func:`plan_embryo`.
    slice_index
        Which slice.
    block_spots
        Spots a block.

    Notes
    -----
    Counts are gamma-Poisson: a gamma-distributed depth a spot, Poisson totals, molecules spread over genes
    by the spot's mixture of the slice's programmes. O(molecules), and ``8 * depth * block_spots`` bytes
    beside about 100 bytes per spot of the slice.

    Examples
    --------
    >>> embryo = plan_embryo(n_spots=3000, n_slices=2, n_genes=100, n_factors=5)
    >>> [len(block.domain) for block in slice_blocks(embryo, 1, block_spots=1500)]
    [1500, 500]
    """
    n_spots, name = int(embryo.n_spots[slice_index]), embryo.slices[slice_index]
    section = embryo.anatomy.sections[slice_index]
    rng = rng_for(embryo.seed, "embryo", "spots", slice_index)
    bins, body = body_positions(section, n_spots, rng=rng)
    totals = rng.poisson(embryo.depths[slice_index] * rng.gamma(_DEPTH_SHAPE, 1 / _DEPTH_SHAPE, n_spots))
    profiles = embryo.loadings.T * np.exp(embryo.effects[slice_index])
    tables = alias_tables(profiles / profiles.sum(axis=1, keepdims=True))
    stream = seed_for(embryo.seed, "embryo", "molecules", slice_index)
    for start in range(0, n_spots, block_spots):
        rows = slice(start, start + block_spots)
        domain, factors = spot_factors(
            body[rows], section.organs, embryo.side_mixture, _CONCENTRATION, np.uint64(stream), start
        )
        yield SpotBlock(
            start=start,
            counts=sample_counts(factors, totals[rows], tables, seed=stream, first=start),
            names=np.array([f"{name}_{x}_{y}" for x, y in bins[rows].tolist()], dtype=object),
            domain=domain,
            factors=factors,
            spatial=bins[rows] * PITCH_UM,
        )


@taking(EmbryoParams)
def simulate_embryo(
    out: Path | str, params: EmbryoParams, *, overwrite: bool = False, events: Events = SILENT
) -> Path:
    """Write a SpatialData store of the slices of a growing embryo, one table each, the truth beside the data.

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
        The store. Every table has int32 counts in X, ``obs["domain"]`` and ``obs["slice"]``,
        ``obsm["spatial"]`` in micrometres, ``obsm["true_factors"]`` (n, K) with rows that sum to 1,
        ``varm["true_loadings"]`` (G, K) with columns that sum to 1, and ``uns["truth"]``.

    Raises
    ------
    BadOption
        The sizes do not go together, or the store exists.

    Notes
    -----
    Counts go to disk block by block, so that memory does not depend on their number; names and domains of one
    slice at a time are held, about 250 bytes per spot.

    Examples
    --------
    >>> import atlasnmf as an
    >>> store = an.simulate_embryo("made.zarr", n_spots=500, n_slices=2, n_genes=60, n_factors=4)
    >>> an.open_atlas(store)
    Atlas(made.zarr: 500 spots, 2 slices: slice_1 (167), slice_2 (333))
    """
    from atlasnmf.store.writer import create_store

    embryo = plan_embryo(**dict(params))
    out = Path(out)
    with create_store(out, overwrite=overwrite) as store, events.stage("simulate", params.n_spots) as advance:
        for s, name in enumerate(embryo.slices):
            table = store.table(name, n_genes=params.n_genes, dtype=np.int32)
            names, domain = [], []
            for block in slice_blocks(embryo, s):
                table.append(block.counts, obsm={"spatial": block.spatial, "true_factors": block.factors})
                names.append(block.names)
                domain.append(block.domain.astype(np.int16))
                advance(len(block.domain))
            table.close(**_description(embryo, s, np.concatenate(names), np.concatenate(domain)))
    return out


def _description(embryo: Embryo, slice_index: int, names: np.ndarray, domain: np.ndarray) -> dict[str, Any]:
    """Return what stands beside the counts of a slice."""
    import pandas as pd

    anatomy, slices = embryo.anatomy, embryo.slices
    columns = {
        "slice": pd.Categorical.from_codes(np.full(len(names), slice_index, np.int8), list(slices)),
        "domain": pd.Categorical.from_codes(domain, list(anatomy.names)),
    }
    truth = {
        "simulator": "embryo",
        "seed": embryo.seed,
        "slice": slices[slice_index],
        "unit": "micrometre",
        "pitch": PITCH_UM,
        "depth": float(embryo.depths[slice_index]),
        "gene_effects": embryo.effects[slice_index],
        # domain d is where factor d is strongest
        "domains": np.array(anatomy.names, dtype=object),
        "domain_slices": np.array(["all" if s < 0 else slices[s] for s in anatomy.only_slice], dtype=object),
    }
    return {
        "obs": pd.DataFrame(columns, index=names),
        "var": pd.DataFrame(index=list(embryo.genes)),
        "varm": {"true_loadings": embryo.loadings},
        "uns": {"truth": truth},
    }
