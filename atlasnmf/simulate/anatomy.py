"""The shape of a made embryo: outlines that grow and change, organs that keep their place in the body."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.seeds import rng_for

__all__ = ["PITCH_UM", "Anatomy", "Section", "body_positions", "outline_reach", "plan_anatomy"]

#: Distance of neighbouring bins, as of Stereo-seq counts binned by 50.
PITCH_UM = 25.0
#: Share of bins lost to tears and dust.
HOLES = 0.02
_HARMONICS = np.array([2, 3, 4])
_AMPLITUDES = np.array([0.13, 0.07, 0.05])


@dataclass(frozen=True)
class Section:
    """One slice through the embryo.

    Parameters
    ----------
    outline
        Cosine and sine amplitudes of the harmonics 2, 3, 4 of the outline, shape (3, 2).
    organs
        Shape (D, 10), see :func:`atlasnmf.simulate.sampling.spot_factors`.
    """

    outline: np.ndarray
    organs: np.ndarray


@dataclass(frozen=True)
class Anatomy:
    """The plan all slices share.

    Parameters
    ----------
    names
        Of the D domains: the mesenchyme that fills the body, organs, then cores nested in organs.
    parents
        The domain each one lies in, int64, shape (D,); the mesenchyme's is itself.
    only_slice
        The one slice a domain occurs in, or -1 for all, int64, shape (D,).
    sections
        One a slice.
    """

    names: tuple[str, ...]
    parents: np.ndarray
    only_slice: np.ndarray
    sections: tuple[Section, ...]


def _spread(rng: np.random.Generator, n_points: int) -> np.ndarray:
    """Scatter points evenly over a disc of radius 0.78 (Mitchell's best candidate)."""
    points = np.zeros((0, 2))
    for _ in range(n_points):
        turn, far = rng.uniform(0, 2 * np.pi, 400), 0.78 * np.sqrt(rng.uniform(0, 1, 400))
        tries = np.column_stack([far * np.cos(turn), far * np.sin(turn)])
        gaps = np.linalg.norm(tries[:, None] - points[None], axis=2)
        # Half the way to a neighbouring organ, but the whole way to the skin.
        room = np.minimum(gaps.min(axis=1, initial=2.0), 2 * (1.0 - far))
        points = np.vstack([points, tries[np.argmax(room)]])
    return points


def plan_anatomy(n_domains: int, n_slices: int, *, seed: int) -> Anatomy:
    """Place organs in the body frame, nest cores in some, and let some exist in one slice alone.

    Parameters
    ----------
    n_domains
        Domains including the mesenchyme, at least 1.
    n_slices
        Slices. With two or more, a sixth of the domains (at least one, at most one a slice) are unique to
        a slice.
    seed
        Seed of the place and shape of everything.
    """
    rng = rng_for(seed, "embryo", "anatomy")
    n_cores = (n_domains - 1) // 3
    n_organs = n_domains - 1 - n_cores
    n_unique = min(n_slices, max(n_domains // 6, 1), n_organs - n_cores) if n_slices > 1 else 0
    centres = _spread(rng, n_organs)
    gaps = np.linalg.norm(centres[:, None] - centres[None], axis=2) + np.diag(np.full(n_organs, np.inf))
    room = np.minimum(gaps.min(axis=1, initial=1.0) / 2, 1.0 - np.linalg.norm(centres, axis=1))

    parents = np.concatenate([np.zeros(n_organs + 1, np.int64), np.arange(1, n_cores + 1)])
    only_slice = np.full(n_domains, -1)
    # Organs without a core come last, so the unique ones never leave a core without its organ.
    only_slice[n_organs + 1 - n_unique : n_organs + 1] = rng.permutation(n_slices)[:n_unique]
    organs = np.zeros((n_domains, 10))
    organs[:, 0] = 1.0
    organs[0, 3] = 1.0
    organs[1 : n_organs + 1, 1:3] = centres
    organs[1 : n_organs + 1, 3] = 1.15 * room
    inner = slice(n_organs + 1, n_domains)
    organs[inner, 3] = 0.55 * organs[parents[inner], 3]
    turn = rng.uniform(0, 2 * np.pi, n_cores)
    shift = 0.25 * organs[parents[inner], 3]
    organs[inner, 1:3] = organs[parents[inner], 1:3] + (shift * [np.cos(turn), np.sin(turn)]).T
    organs[1:, 4] = rng.uniform(1.0, 1.25, n_domains - 1)
    organs[1:, 5] = rng.uniform(0, np.pi, n_domains - 1)
    organs[1:, 6:8] = rng.uniform(0.02, 0.08, (n_domains - 1, 2))
    organs[1:, 8:10] = rng.uniform(0, 2 * np.pi, (n_domains - 1, 2))

    young, old = rng.normal(size=(2, 3, 2)) * _AMPLITUDES[:, None]
    sections = []
    for s in range(n_slices):
        age = s / max(n_slices - 1, 1)
        drifted = organs.copy()
        drift = rng.normal(0, 0.1, (n_domains, 2)) * organs[:, 3:4]
        drifted[1:, 1:3] += drift[parents[1:]] * (parents[1:, None] > 0) + drift[1:] * (
            parents[1:, None] == 0
        )
        drifted[1:, 3] *= rng.uniform(0.9, 1.1, n_domains - 1)
        drifted[:, 0] = (only_slice < 0) | (only_slice == s)
        sections.append(Section((1 - age) * young + age * old, drifted))
    names = ["mesenchyme", *(f"organ_{d:02d}" for d in range(1, n_organs + 1))]
    names += [f"{names[parents[d]]}_core" for d in range(n_organs + 1, n_domains)]
    return Anatomy(tuple(names), parents, only_slice, tuple(sections))


def outline_reach(outline: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Radius of the outline in some directions, about 1."""
    reach = np.ones_like(turn)
    for harmonic, (cosine, sine) in zip(_HARMONICS, outline, strict=True):
        reach += cosine * np.cos(harmonic * turn) + sine * np.sin(harmonic * turn)
    return np.maximum(reach, 0.3)


def body_positions(
    section: Section, n_spots: int, *, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Lay a grid of bins over the slice, lose some, and keep the ``n_spots`` innermost.

    Parameters
    ----------
    section
        The slice.
    n_spots
        Bins to keep.
    rng
        Chooses the bins lost.

    Returns
    -------
    bins, body
        Column and row of each bin, int32, shape (n_spots, 2), in raster order (row by row, as instruments
        write); and its position in the body frame, float64, shape (n_spots, 2).

    Notes
    -----
    About 100 bytes per spot, the only thing in the simulation that grows with a slice.
    """
    turn = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    reach = outline_reach(section.outline, turn)
    area = 0.5 * np.mean(reach**2) * 2 * np.pi
    # The radius, in bins, at which the outline holds the spots; a margin leaves enough bins to choose from.
    scale = np.sqrt(n_spots / (area * (1 - HOLES)))
    half = np.ceil(1.05 * scale * reach.max() + 2)
    axis = np.arange(-half, half + 1)
    x, y = np.tile(axis, len(axis)), np.repeat(axis, len(axis))
    depth = np.hypot(x, y) / (scale * outline_reach(section.outline, np.arctan2(y, x)))
    depth[rng.uniform(size=len(depth)) < HOLES] = np.inf
    kept = np.sort(np.argpartition(depth, n_spots - 1)[:n_spots])
    x, y, depth = x[kept], y[kept], depth[kept]
    bins = np.column_stack([x - x.min(), y - y.min()]).astype(np.int32)
    away = depth / depth.max() / np.maximum(np.hypot(x, y), 1e-12)
    return bins, np.column_stack([x * away, y * away])
