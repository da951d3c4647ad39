"""Gene images on a voxel grid with regions: known patterns, unions of touching regions, and lost values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics.regions import adjacency_on_grid
from atlasnmf.options import Options, split_list
from atlasnmf.seeds import rng_for
from atlasnmf.simulate.programmes import gene_names, gene_programmes
from atlasnmf.store.grids import Grid
from atlasnmf.store.ontology import Ontology

__all__ = ["MadeVolume", "PaintedGrid", "VolumeParams", "annotated_grid", "made_grid", "plan_volume"]

#: Distance of voxels, as of the Allen Institute's gene expression grid.
SPACING_UM = 200.0
#: Spread of values around what patterns and programmes give: gamma shape, noise in units of a gene's mean.
_SHAPE, _NOISE = 12.0, 0.05
#: Voxels of a planted region, as shares of the volume.
_SMALLEST, _LARGEST = 0.004, 0.1
#: Share of voxels at the rim that hardly any gene was measured at.
_RIM = 0.002
_DIVISION_SIZE = 4


class VolumeParams(Options):
    """What a volume is made of."""

    title: ClassVar[str] = "The volume"

    shape: tuple[int, int, int] = Field((34, 24, 30), description="Voxels along the three axes.")
    n_regions: int = Field(40, ge=1, description="Regions of the finest level.")
    n_genes: int = Field(300, ge=1, description="Genes.")
    n_patterns: int = Field(8, ge=1, description="Planted patterns, unions of touching regions.")
    missing: float = Field(0.1, description="Share of values lost, then filled.")
    annotated: Path | str | None = Field(
        None,
        description="h5ad file of a real annotated grid to paint on in place of a made one: geometry and "
        "regions are then real, values made.",
    )
    seed: int = Field(0, ge=0, description="Same seed, same store.")

    @field_validator("shape", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        sizes = split_list(value.replace("x", ",") if isinstance(value, str) else value)
        if len(sizes) != 3 or not all(float(size) > 0 for size in sizes):
            raise ValueError("write three positive numbers with commas")
        return sizes


@dataclass(frozen=True)
class PaintedGrid:
    """Where voxels lie and which region each is in.

    Parameters
    ----------
    grid
        The grid.
    regions
        Number of each voxel's region, 0 outside, int64, shape ``grid.shape``.
    ontology
        Names and parents.
    source
        Where regions come from.
    """

    grid: Grid
    regions: np.ndarray
    ontology: Ontology
    source: str


@dataclass(frozen=True)
class MadeVolume:
    """A made data set: everything but the images, which are drawn when asked for.

    Parameters
    ----------
    painted
        Grid and regions.
    genes
        Names of the genes.
    patterns
        The planted patterns at the voxels inside, float32, C order, shape (n, K).
    pattern_regions
        Short names of the regions each one is the union of.
    coefficients
        What each gene takes of each pattern, float64, shape (G, K).
    missing
        Share of values lost.
    seed
        The seed all of it follows from.
    """

    painted: PaintedGrid
    genes: tuple[str, ...]
    patterns: np.ndarray
    pattern_regions: tuple[tuple[str, ...], ...]
    coefficients: np.ndarray
    missing: float
    seed: int

    @property
    def grid(self) -> Grid:
        """The grid."""
        return self.painted.grid

    @cached_property
    def inside(self) -> np.ndarray:
        """Which voxels have a region, bool, shape ``grid.shape``."""
        return self.painted.regions > 0

    @cached_property
    def _rim(self) -> np.ndarray:
        n_voxels = len(self.patterns)
        return rng_for(self.seed, "volume", "rim").choice(n_voxels, int(_RIM * n_voxels), replace=False)

    def image(self, gene: int) -> np.ndarray:
        """Draw a gene's image: NaN outside, -1 where the value was lost, float32, shape ``grid.shape``.

        Half of what is lost are single voxels, half are runs of planes, as when sections are damaged.
        """
        rng = rng_for(self.seed, "volume", "gene", gene)
        mean = self.patterns @ self.coefficients[gene].astype(np.float32)
        noise = _NOISE * float(mean.mean()) * rng.normal(size=len(mean))
        values = np.maximum(mean * rng.gamma(_SHAPE, 1 / _SHAPE, len(mean)) + noise, 0.0)
        image = np.full(self.grid.shape, np.nan, np.float32)
        lost = rng.uniform(size=len(mean)) < self.missing / 2
        lost[self._rim] = rng.uniform(size=len(self._rim)) < 0.99
        planes = np.flatnonzero(self.inside.any(axis=(1, 2)))
        n_lost = round(self.missing / 2 * len(planes))
        values[lost] = -1.0
        image[self.inside] = values
        if n_lost:
            start = int(rng.integers(planes[0], planes[-1] - n_lost + 2))
            section = image[start : start + n_lost]
            section[~np.isnan(section)] = -1.0
        return image


def made_grid(shape: tuple[int, int, int], n_regions: int, *, seed: int) -> PaintedGrid:
    """Divide an ellipsoid into divisions and these into regions, each the voxels nearest to a point.

    Parameters
    ----------
    shape
        Voxels along each axis.
    n_regions
        Regions of the finest level; about a quarter as many divisions, and one root, are above them.
    seed
        Of the points.
    """
    axes = [np.linspace(-1, 1, size) for size in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    inside = x**2 + y**2 + z**2 <= 1.0
    points = np.column_stack([axis[inside] for axis in (x, y, z)])
    if len(points) < 20 * n_regions:
        size = " x ".join(map(str, shape))
        raise BadOption(f"a grid of {size} is too small for {n_regions} regions; ask for a larger --shape")
    rng = rng_for(seed, "volume", "regions")
    n_divisions = max(n_regions // _DIVISION_SIZE, 1)
    division = _nearest_of(points, _spread(points, n_divisions, rng))
    region = np.zeros(len(points), np.int64)
    ids, acronyms, parents = [1], ["root"], [-1]
    shares = np.bincount(division, minlength=n_divisions) / len(points)
    counts = _shared_out(n_regions, shares)
    number = n_divisions + 2
    for d in range(n_divisions):
        here = np.flatnonzero(division == d)
        ids.append(d + 2)
        acronyms.append(f"D{d + 1}")
        parents.append(1)
        own = _nearest_of(points[here], _spread(points[here], int(counts[d]), rng))
        region[here] = own + number
        for r in range(int(counts[d])):
            ids.append(number + r)
            acronyms.append(f"D{d + 1}r{r + 1}")
            parents.append(d + 2)
        number += int(counts[d])
    regions = np.zeros(shape, np.int64)
    regions[inside] = region
    names = tuple(acronyms)
    ontology = Ontology(np.array(ids, np.int64), names, names, np.array(parents, np.int64))
    return PaintedGrid(
        Grid(shape, np.diag([*[SPACING_UM] * 3, 1.0]), "micrometre"), regions, ontology, "made"
    )


def _spread(points: np.ndarray, n_chosen: int, rng: np.random.Generator) -> np.ndarray:
    """Choose points far from each other, each the best of a few hundred tries."""
    chosen = points[rng.integers(len(points))][None]
    for _ in range(n_chosen - 1):
        tries = points[rng.integers(len(points), size=200)]
        gaps = np.linalg.norm(tries[:, None] - chosen[None], axis=2).min(axis=1)
        chosen = np.vstack([chosen, tries[np.argmax(gaps)]])
    return chosen


def _nearest_of(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(centres).query(points)[1])


def _shared_out(total: int, shares: np.ndarray) -> np.ndarray:
    """Round shares of a total to whole numbers, each at least 1, that add up to it."""
    counts = np.maximum(np.floor(shares * total).astype(np.int64), 1)
    while counts.sum() != total:
        step = 1 if counts.sum() < total else -1
        gap = shares * total - counts
        gap[(counts <= 1) & (step < 0)] = np.inf
        counts[np.argmax(gap) if step > 0 else np.argmin(gap)] += step
    return counts


def annotated_grid(path: Path | str) -> PaintedGrid:
    """Read a grid and its regions from an h5ad file with one row per voxel.

    Parameters
    ----------
    path
        ``obsm["spatial"]`` grid indices, obs columns ``structure_id``, ``acronym``, ``id_path`` (numbers of
        the region and all above it, from the root down) and, optionally, ``major`` (a short name of the
        division); ``uns["grid_shape_xyz"]``. The Allen Institute's 200 um grid has this form.

    Raises
    ------
    BadInput
        Something of this is missing.
    """
    from atlasnmf.store.h5ad import H5Table

    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no file {path}; give an h5ad file with a row per voxel")
    with H5Table(path) as table:
        try:
            obs, spatial = table.read("obs"), np.asarray(table.read("obsm", "spatial"))
            shape = tuple(int(size) for size in table.read("uns", "grid_shape_xyz"))
            numbers = obs["structure_id"].to_numpy(np.int64)
            paths, acronyms = obs["id_path"].astype(str), obs["acronym"].astype(str)
        except KeyError as error:
            raise BadInput(f"{path} has no {error}; it does not describe a grid with regions") from None
    voxels = np.rint(spatial).astype(np.int64)
    regions = np.zeros(shape, np.int64)
    regions[tuple(voxels.T)] = numbers
    names = dict(zip(numbers.tolist(), acronyms, strict=True))
    parents: dict[int, int] = {}
    for text in paths.unique():
        line = [int(step) for step in text.strip("/").split("/")]
        parents |= dict(zip(line, [-1, *line[:-1]], strict=True))
    if "major" in obs:
        _name_divisions(names, paths, obs["major"].astype(str))
    ids = np.array(sorted(parents), np.int64)
    short = tuple(names.get(int(number), str(number)) for number in ids)
    ontology = Ontology(ids, short, short, np.array([parents[int(number)] for number in ids], np.int64))
    grid = Grid((shape[0], shape[1], shape[2]), np.diag([*[SPACING_UM] * 3, 1.0]), "micrometre")
    return PaintedGrid(grid, regions, ontology, path.name)


def _name_divisions(names: dict[int, str], paths: Any, majors: Any) -> None:
    """Give a division its name: the last number all paths of its voxels share, where that has none yet."""
    for major, own in paths.groupby(majors.to_numpy()):
        lines = [text.strip("/").split("/") for text in own.unique()]
        shared = [steps[0] for steps in zip(*lines, strict=False) if len(set(steps)) == 1]
        if len(lines) > 1 and shared and major not in names.values():
            names.setdefault(int(shared[-1]), str(major))


def plan_volume(
    painted: PaintedGrid,
    *,
    n_genes: int = 300,
    n_patterns: int = 8,
    missing: float = 0.1,
    seed: int = 0,
) -> MadeVolume:
    """Plant patterns: unions of one, two or three touching regions of any level, no region twice.

    Parameters
    ----------
    painted
        From :func:`made_grid` or :func:`annotated_grid`.
    n_genes
        Genes; three fifths are markers of one pattern each.
    n_patterns
        The planted rank.
    missing
        Share of values lost.
    seed
        Same seed, same volume.

    Raises
    ------
    BadOption
        Too few regions for the patterns, too few genes, or a share out of range.

    Examples
    --------
    >>> volume = plan_volume(made_grid((20, 16, 18), 20, seed=0), n_genes=30, n_patterns=4)
    >>> volume.patterns.shape[1], len(volume.genes), volume.image(0).shape
    (4, 30, (20, 16, 18))
    """
    if n_genes < 2 * n_patterns:
        raise BadOption(f"{n_genes} genes are too few for {n_patterns} patterns; ask for {2 * n_patterns}")
    if not 0 <= missing <= 0.8:
        raise BadOption(f"the share of missing values must lie in [0, 0.8], got {missing}")
    inside = painted.regions > 0
    leaves, codes = np.unique(painted.regions[inside], return_inverse=True)
    numbers, contains = painted.ontology.membership(leaves)
    chosen = _chosen_unions(inside, codes, contains, n_patterns, seed)
    if len(chosen) < n_patterns:
        raise BadOption(
            f"there is room for {len(chosen)} patterns only; "
            "ask for fewer, or for more regions of a larger grid"
        )
    rng = rng_for(seed, "volume", "patterns")
    patterns = np.empty((len(codes), n_patterns), np.float32)
    for k, union in enumerate(chosen):
        members = np.asarray(contains[union].any(axis=0))[codes]
        patterns[:, k] = members * rng.gamma(4 * _SHAPE, 1 / (4 * _SHAPE), len(codes))
    return MadeVolume(
        painted=painted,
        genes=tuple(gene_names(n_genes)),
        patterns=patterns,
        pattern_regions=tuple(
            tuple(painted.ontology.acronym(int(numbers[region])) for region in union) for union in chosen
        ),
        coefficients=_coefficients(n_genes, patterns, seed),
        missing=missing,
        seed=seed,
    )


def _coefficients(n_genes: int, patterns: np.ndarray, seed: int) -> np.ndarray:
    """Return gene programmes; a gene no programme uses follows one pattern.

    Every pattern explains the same sum of squares, whatever its size: a rank below the planted one then has
    no pattern that it could do without.
    """
    n_patterns = patterns.shape[1]
    coefficients = gene_programmes(n_genes, n_patterns, seed=seed) * n_genes
    silent = np.flatnonzero(coefficients.sum(axis=1) == 0)
    rng = rng_for(seed, "volume", "silent genes")
    coefficients[silent, rng.integers(n_patterns, size=len(silent))] = rng.gamma(2.0, 0.5, len(silent))
    strength = np.linalg.norm(coefficients, axis=0) * np.linalg.norm(patterns.astype(np.float64), axis=0)
    return coefficients * (np.exp(np.log(strength).mean()) / strength)


def _chosen_unions(
    inside: np.ndarray,
    codes: np.ndarray,
    contains: np.ndarray,
    n_patterns: int,
    seed: int,
) -> list[list[int]]:
    """Draw unions of 1, 2, 3, 1, 2, ... touching regions of moderate size, all disjoint."""
    labels = np.full(inside.shape, -1, np.int64)
    labels[inside] = codes
    holds = contains.astype(np.int64)
    adjacent = np.asarray(holds @ adjacency_on_grid(labels).astype(np.int64) @ holds.T > 0)
    disjoint = np.asarray(holds @ holds.T == 0)
    shares = holds @ np.bincount(codes) / len(codes)
    rng = rng_for(seed, "volume", "unions")
    eligible = np.asarray((shares >= _SMALLEST) & (shares <= _LARGEST))
    free = eligible.copy()
    unions: list[list[int]] = []
    for start in rng.permutation(np.flatnonzero(eligible)):
        if len(unions) == n_patterns:
            break
        if not free[start]:
            continue
        union = [int(start)]
        near = free & disjoint[start]
        while len(union) < len(unions) % 3 + 1:
            beside = np.flatnonzero(near & adjacent[union].any(axis=0))
            if not len(beside):
                break
            union.append(int(rng.choice(beside)))
            near &= disjoint[union[-1]]
        for region in union:
            free &= disjoint[region]
        unions.append(sorted(union))
    return unions
