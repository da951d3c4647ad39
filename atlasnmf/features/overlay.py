"""Laying one slice over another: all shifts of many turns at once, and how well a move fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.spatial import cKDTree

from atlasnmf.features.rigid import Rigid, turned

__all__ = ["Start", "far_apart", "feature_agreement", "overlap_agreement", "overlay_starts", "shared_excess"]

#: Pixels along the larger slice, and degrees between the turns tried.
_PIXELS, _STEP = 40, 5.0


@dataclass(frozen=True)
class Start:
    """A move to begin from and the correlation of the images after it."""

    move: Rigid
    correlation: float


def overlay_starts(
    moving: np.ndarray,
    fixed: np.ndarray,
    moving_features: np.ndarray | None,
    fixed_features: np.ndarray | None,
    *,
    reflection: bool,
    n_starts: int = 6,
    are_vectors: bool = False,
) -> list[Start]:
    """Find the turns and shifts at which the images of two slices agree.

    Parameters
    ----------
    moving, fixed
        Points, shapes (n, 2) and (p, 2).
    moving_features, fixed_features
        What the images show: sums of the features a pixel, shapes (n, k) and (p, k), centred. None shows
        the number of points.
    reflection
        Whether to try the moving slice turned over, too.
    are_vectors
        The features are vectors in the plane, which turn with the slice.
    n_starts
        The best of them, each more than 15 degrees from a better one of the same handedness.

    Notes
    -----
    72 turns (144 with reflections); all shifts at once by FFT, at 40 pixels along the slice.
    """
    extent = max(float(np.ptp(fixed, axis=0).max()), float(np.ptp(moving, axis=0).max()))
    pixel = extent / _PIXELS
    centre = moving.mean(axis=0)
    arms = moving - centre
    half = int(np.ceil(np.linalg.norm(arms, axis=1).max() / pixel)) + 1
    lowest = fixed.min(axis=0)
    size = np.ceil(np.ptp(fixed, axis=0) / pixel).astype(int) + 1
    shape = tuple(next_fast_len(int(s) + 2 * half + 2, real=True) for s in size)
    image = _image((fixed - lowest) / pixel, fixed_features, shape)
    frequencies = rfft2(image)
    norm = float(np.sqrt((image**2).sum()))
    tried = []
    for reflected in (False, True) if reflection else (False,):
        for degrees in np.arange(0.0, 360.0, _STEP):
            turn = turned(degrees, reflected=reflected)
            shown = moving_features @ turn.rotation.T if are_vectors else moving_features  # type: ignore[operator]
            laid = _image(turn.apply(arms) / pixel + half, shown, shape)
            score = irfft2((frequencies * np.conj(rfft2(laid))).sum(axis=0), s=shape)
            at = np.array(np.unravel_index(int(score.argmax()), shape))
            value = float(score.max()) / (norm * float(np.sqrt((laid**2).sum())) or 1.0)
            # the image lies at `half`; shifts past the far side are negative ones
            steps = np.where(at > size, at - np.array(shape), at)
            shift = lowest + (steps + half) * pixel - turn.rotation @ centre
            tried.append(Start(Rigid(turn.rotation, shift), value))
    return _distinct(tried, n_starts)


def _image(places: np.ndarray, features: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Sum the features of the points of each pixel, shape (k, height, width)."""
    cells = np.rint(places).astype(np.int64)
    flat = cells[:, 0] * shape[1] + cells[:, 1]
    columns = np.ones((len(places), 1)) if features is None else features
    sums = [np.bincount(flat, column, shape[0] * shape[1]) for column in columns.T]
    return np.stack(sums).reshape(-1, *shape)


def _distinct(tried: list[Start], n_starts: int) -> list[Start]:
    kept: list[Start] = []
    for start in sorted(tried, key=lambda s: -s.correlation):
        if all(far_apart(start.move, other.move) for other in kept):
            kept.append(start)
        if len(kept) == n_starts:
            break
    return kept


def far_apart(one: Rigid, other: Rigid, degrees: float = 15.0) -> bool:
    """Tell whether two moves differ in handedness or by more than some degrees."""
    gap = abs((one.degrees - other.degrees + 180) % 360 - 180)
    return one.reflected != other.reflected or gap > degrees


def overlap_agreement(moved: np.ndarray, fixed: np.ndarray, pixel: float) -> float:
    """Return the correlation, 0 to 1, of how many points of either slice a pixel has, over four grids."""
    lowest = np.minimum(moved.min(axis=0), fixed.min(axis=0))
    highest = np.maximum(moved.max(axis=0), fixed.max(axis=0))
    # slices in different units must not ask for more pixels than there is memory
    pixel = max(pixel, float((highest - lowest).max()) / 500)
    shape = tuple((np.ceil((highest - lowest) / pixel) + 2).astype(int))
    total = 0.0
    for offset in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5)):
        one, other = (_image((x - lowest) / pixel + offset, None, shape) for x in (moved, fixed))
        total += float((one * other).sum()) / float(np.sqrt((one**2).sum() * (other**2).sum()))
    return total / 4


def shared_excess(moved: np.ndarray, tree: cKDTree, spacing: float) -> float:
    """Return how many more points than by chance lie on a fixed point, as a share of those that could.

    A point counts within a third of the spacing. Chance is what the points find a spacing to either side.
    """
    reach = spacing / 3
    shares = []
    for step in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        gaps, _ = tree.query(moved + np.array(step) * spacing, distance_upper_bound=reach)
        shares.append(float(np.isfinite(gaps).mean()))
    chance = float(np.mean(shares[1:]))
    return (shares[0] - chance) / max(1.0 - chance, 1e-9)


def feature_agreement(
    moved: np.ndarray, tree: cKDTree, moving_features: np.ndarray, fixed_features: np.ndarray, reach: float
) -> float:
    """Return the correlation of the features of points with the mean of those of fixed points around them.

    Parameters
    ----------
    moved
        Points after the move, shape (n, 2).
    tree
        Of the fixed points.
    moving_features, fixed_features
        Centred, shapes (n, k) and (p, k).
    reach
        The six nearest within this distance are averaged.

    Notes
    -----
    Multiplied by the square root of the share of the points that have some around them, so that a sliver
    that agrees does not win.
    """
    gaps, near = tree.query(moved, k=min(6, len(fixed_features)), distance_upper_bound=reach)
    inside = np.isfinite(gaps)
    some = inside[:, 0]
    if some.sum() < 10:
        return 0.0
    inside = inside[some]
    around = np.where(inside[:, :, None], fixed_features[np.where(inside, near[some], 0)], 0.0).sum(axis=1)
    around /= inside.sum(axis=1)[:, None]
    own = moving_features[some]
    size = float(np.sqrt((own**2).sum() * (around**2).sum()))
    return float((own * around).sum()) / max(size, 1e-300) * float(np.sqrt(some.mean()))
