"""Laying slices that measure different things onto each other, by what one's map tells of the other's.

Where two slices share no feature, neither spots nor outlines need to agree; but regions do: spots that are
alike in one modality lie where spots are alike in the other. Each slice is cut into groups by its own
features, and the move is sought under which the group of one slice says most about the group of the other, as
medical images of two modalities are registered (Viola and Wells 1997; Maes et al. 1997).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from atlasnmf.features.rigid import Rigid, turned

__all__ = ["POOR_SCORE", "TissueMove", "register_maps", "tissue_groups"]

#: A score below it does not say where a slice lies: slices of different tissues reached .06, those of one
#: tissue .14 in the hardest case tried.
POOR_SCORE = 0.1

#: Groups a slice is cut into, spots that are grouped, and spots that moves are judged by, at most.
_GROUPS, _GROUPED, _JUDGED = 8, 20_000, 6000
#: Spots there must be for every pair of groups.
_SPOTS_A_PAIR = 30
#: Turns tried, pixels along the longer side of the larger slice, and starts that are refined.
_TURNS, _PIXELS, _STARTS = 72, 48, 8
#: Nats a spot below which the groups of two slices have nothing to do with each other: those of one tissue
#: have .7 and more, torn ones .04.
_LEAST_INFORMATION = 0.1
#: Least share of the smaller slice that must lie on the larger one.
_LEAST_OVERLAP = 0.2
#: Two moves are the same when they differ by less than this turn (degrees) and this share of the extent.
_SAME_TURN, _SAME_SHIFT = 15.0, 0.1


@dataclass(frozen=True)
class TissueMove:
    """A move, and how sure it is.

    Parameters
    ----------
    rigid
        Of the moving slice onto the fixed one.
    score
        0 to 1: by how much it beats the best move that is another one.
    information
        What the groups of one slice say of those of the other under the move, in nats a spot.
    """

    rigid: Rigid
    score: float
    information: float


def tissue_groups(features: np.ndarray, rng: np.random.Generator, n_groups: int = _GROUPS) -> np.ndarray:
    """Cut a slice into groups of spots alike, by k-means on features averaged over neighbours.

    Parameters
    ----------
    features
        Shape (n, p), finite.
    rng
        Draws the spots that centres are sought among.
    n_groups
        Groups, at most: slices of few spots have fewer.

    Returns
    -------
    groups
        int64, shape (n,).
    """
    from sklearn.cluster import KMeans

    rows = np.sort(rng.permutation(len(features))[:_GROUPED])
    # pairs of groups must be rarer than spots, or chance finds a move that explains them all
    n_groups = max(min(n_groups, int(np.sqrt(len(features) / _SPOTS_A_PAIR))), 2)
    n_groups = min(n_groups, len(np.unique(features[rows], axis=0)))
    means = KMeans(n_groups, n_init=5, random_state=int(rng.integers(2**31))).fit(features[rows])
    return means.predict(features).astype(np.int64)


def register_maps(
    moving: np.ndarray,
    fixed: np.ndarray,
    moving_groups: np.ndarray,
    fixed_groups: np.ndarray,
    *,
    reflection: bool = False,
    rng: np.random.Generator,
) -> TissueMove:
    """Find the turn and shift under which groups of one slice say most about those of the other.

    Parameters
    ----------
    moving, fixed
        Positions in the plane, shapes (n, 2) and (p, 2), in one unit.
    moving_groups, fixed_groups
        Group of every spot, from 0.
    reflection
        Whether the slice may lie on its other side.
    rng
        Draws the spots that moves are judged by.

    Returns
    -------
    TissueMove

    Notes
    -----
    What is sought is the gain in likelihood over groups that know nothing of each other: spots on the other
    slice times the mutual information, less what chance would give. All shifts of 72 turns are tried by FFT
    on an image per group; the best are refined by the simplex method, each spot against the nearest one of
    the other slice. Seconds, whatever the size.
    """
    moving, fixed = np.asarray(moving, np.float64), np.asarray(fixed, np.float64)
    few_m, few_f = (np.sort(rng.permutation(len(points))[:_JUDGED]) for points in (moving, fixed))
    judge = _Judge(fixed[few_f], fixed_groups[few_f], int(moving_groups.max()) + 1)
    points, groups = moving[few_m], moving_groups[few_m]
    starts = _starts(points, fixed[few_f], groups, fixed_groups[few_f], reflection)
    found = [_refined(judge, points, groups, start) for start in starts]
    gains = [judge.gain(move.apply(points), groups) for move in found]
    best = int(np.argmax(gains))
    extent = float(np.ptp(fixed, axis=0).max())
    others = [
        gain
        for gain, move in zip(gains, found, strict=True)
        if _differs(move, found[best], points.mean(axis=0), extent)
    ]
    rival = max(others, default=0.0)
    information = gains[best] / len(points)
    score = float(np.clip(2 * (gains[best] - max(rival, 0.0)) / max(gains[best], 1e-12), 0, 1))
    return TissueMove(found[best], score if information > _LEAST_INFORMATION else 0.0, information)


def _differs(one: Rigid, other: Rigid, centre: np.ndarray, extent: float) -> bool:
    turn = abs((one.degrees - other.degrees + 180) % 360 - 180)
    shift = np.linalg.norm(one.apply(centre[None]) - other.apply(centre[None]))
    return bool(one.reflected != other.reflected or turn > _SAME_TURN or shift > _SAME_SHIFT * extent)


class _Judge:
    """Tells how much groups that are moved onto the fixed slice say of its own."""

    def __init__(self, points: np.ndarray, groups: np.ndarray, n_groups: int) -> None:
        self.tree, self.groups = cKDTree(points), groups
        self.reach = 3 * float(np.median(self.tree.query(points, k=2)[0][:, 1]))
        self.shape = (n_groups, int(groups.max()) + 1)

    def gain(self, points: np.ndarray, groups: np.ndarray) -> float:
        """Return the gain in likelihood, in nats."""
        distance, near = self.tree.query(points, distance_upper_bound=self.reach)
        on = np.isfinite(distance)
        if on.sum() < _LEAST_OVERLAP * min(len(points), len(self.groups)):
            return 0.0
        joint = np.zeros(self.shape)
        np.add.at(joint, (groups[on], self.groups[near[on]]), 1.0)
        return float(_gain(joint[None])[0])


def _gain(joint: np.ndarray) -> np.ndarray:
    """Return the likelihood gain of tables of counts, shape (.., a, b), less the expected gain of chance."""
    total = joint.sum(axis=(-2, -1))
    rows, columns = joint.sum(axis=-1, keepdims=True), joint.sum(axis=-2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = joint * np.log(joint * total[..., None, None] / (rows * columns))
    chance = (joint.shape[-2] - 1) * (joint.shape[-1] - 1) / 2
    return np.nan_to_num(terms).sum(axis=(-2, -1)) - chance


def _starts(
    moving: np.ndarray,
    fixed: np.ndarray,
    moving_groups: np.ndarray,
    fixed_groups: np.ndarray,
    reflection: bool,
) -> list[Rigid]:
    """Return the best moves of all turns and shifts on images of a few dozen pixels, far from each other."""
    centre, aim = moving.mean(axis=0), (fixed.max(axis=0) + fixed.min(axis=0)) / 2
    pixel = float(max(np.ptp(moving, axis=0).max(), np.ptp(fixed, axis=0).max())) / _PIXELS
    reach = np.linalg.norm(moving - centre, axis=1).max() + np.abs(fixed - aim).max()
    side = scipy.fft.next_fast_len(int(np.ceil(2 * reach / pixel)) + 2, real=True)
    at = np.fft.fftfreq(side, 1 / side) * pixel
    image = _images(fixed - aim, fixed_groups, pixel, side)
    spectra = scipy.fft.rfft2(image)
    least = _LEAST_OVERLAP * min(image.sum(), _images(moving - centre, moving_groups, pixel, side).sum())
    found: list[tuple[float, Rigid]] = []
    for reflected in (False, True) if reflection else (False,):
        for degrees in np.arange(_TURNS) * (360.0 / _TURNS):
            turn = turned(float(degrees), reflected=reflected)
            moved = _images(turn.apply(moving - centre), moving_groups, pixel, side)
            products = np.conj(scipy.fft.rfft2(moved))[:, None] * spectra[None]
            joint = np.maximum(scipy.fft.irfft2(products, s=(side, side)), 0)
            joint = np.moveaxis(joint.reshape(*joint.shape[:2], -1), -1, 0)
            gain = np.where(joint.sum(axis=(1, 2)) >= least, _gain(joint), -np.inf)
            for _ in range(2):
                top = int(np.argmax(gain))
                if not np.isfinite(gain[top]):
                    break
                shift = np.array([at[top // side], at[top % side]])
                found.append((float(gain[top]), Rigid(turn.rotation, aim + shift - turn.rotation @ centre)))
                near = np.abs(at[:, None] - shift[0]) + np.abs(at[None] - shift[1]) < 6 * pixel
                gain[near.ravel()] = -np.inf
    found.sort(key=lambda item: -item[0])
    extent = pixel * _PIXELS
    chosen: list[Rigid] = []
    for _, move in found:
        if all(_differs(move, other, centre, extent) for other in chosen):
            chosen.append(move)
        if len(chosen) == _STARTS:
            break
    return chosen or [Rigid.identity()]


def _images(points: np.ndarray, groups: np.ndarray, pixel: float, side: int) -> np.ndarray:
    """Return an image per group: its share of the spots of each pixel, shape (groups, side, side)."""
    place = np.floor(points / pixel + 0.5).astype(np.int64) % side
    images = np.zeros((int(groups.max()) + 1, side, side))
    np.add.at(images, (groups, place[:, 0], place[:, 1]), 1.0)
    total = images.sum(axis=0)
    return np.divide(images, total, out=images, where=total > 0)


def _refined(judge: _Judge, points: np.ndarray, groups: np.ndarray, start: Rigid) -> Rigid:
    centre = points.mean(axis=0)
    extent = float(np.ptp(points, axis=0).max())

    def move(step: np.ndarray) -> Rigid:
        rotation = turned(float(step[0]) * 10).rotation @ start.rotation
        landed = start.apply(centre[None])[0] + step[1:] * 0.05 * extent
        return Rigid(rotation, landed - rotation @ centre)

    simplex = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.7, 0], [0, 0, 0.7]], float)
    found = minimize(
        lambda step: -judge.gain(move(step).apply(points), groups),
        np.zeros(3),
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": 120, "xatol": 1e-3, "fatol": 1e-2},
    )
    return move(found.x)
