"""Bringing slices into one frame: turns and shifts from many starts, and how far to trust the result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.features.overlay import far_apart
from atlasnmf.features.rigid import Rigid
from atlasnmf.features.slice_pair import SlicePair, turned_about

__all__ = ["FEWEST_SPOTS", "METHODS", "POOR_SCORE", "Note", "Registration", "register", "unit_notes"]

#: Ways to register; see :func:`register`.
METHODS = ("auto", "icp", "ndt", "features", "none")
#: Slices whose extents differ by more than this may be in different units.
_UNITS_DIFFER = 2.5
#: Scores below are said to be poor, with features and from the outline alone (two unlike pieces of tissue may
#: have much the same outline); a rival this close to the best is named.
POOR_SCORE, POOR_OUTLINE, _CLOSE = 0.2, 0.3, 0.05
#: Of either slice; fewer tell no turn from another.
FEWEST_SPOTS = 10


@dataclass(frozen=True)
class Note:
    """What a user should know of a registration.

    Parameters
    ----------
    text
        The same for all slices of which it is true.
    detail
        The figure of this one.
    of_units
        Whether it is about the units of the positions, however well the slices agree.
    """

    text: str
    detail: str
    of_units: bool = False

    def __str__(self) -> str:
        return f"{self.text} ({self.detail})"


@dataclass(frozen=True)
class Registration:
    """A move of one slice onto another, and its worth.

    Parameters
    ----------
    rigid
        The move.
    score
        0 to 1: how far the agreement of the slices after the move exceeds that after any other turn found,
        as a share of what can be reached. Near 0 where the slices do not overlap, or where another turn fits
        as well. NaN for ``none``.
    method
        What found the move: ``icp``, ``ndt``, ``features`` or ``none``.
    notes
        A poor score, a rival turn, different units.
    """

    rigid: Rigid
    score: float
    method: str
    notes: tuple[Note, ...] = ()


def register(
    moving: np.ndarray,
    fixed: np.ndarray,
    *,
    method: str = "auto",
    reflection: bool = False,
    features: tuple[np.ndarray, np.ndarray] | None = None,
    rng: np.random.Generator,
) -> Registration:
    """Find the turn and shift that lay one slice onto another.

    Parameters
    ----------
    moving, fixed
        Positions in the plane, shapes (n, 2) and (p, 2).
    method
        ``icp`` (grids; nearest points), ``ndt`` (irregular points; a field of Gaussians), ``features``
        (shared scores of the spots), ``none``, or ``auto``: all that can be done, the best agreement chosen.
    reflection
        Whether the slice may lie on its other side.
    features
        Scores of the spots of either slice on the same few components, such as 20 joint principal components,
        shapes (n, k) and (p, k). Centred here a slice.
    rng
        Draws the points looked at, and the pairs of spots alike that moves are guessed from.

    Returns
    -------
    Registration

    Raises
    ------
    BadOption
        No such method, or ``features`` without any.
    BadInput
        A slice has fewer than ten spots, positions that are not finite or not in the plane, or that do not
        go with the features.

    Notes
    -----
    The images of the slices (how many spots a pixel, or their features) are correlated over all shifts of 72
    turns by FFT; mutual nearest neighbours in the features give further starts (RANSAC). Each start is
    refined by NDT from coarse to fine cells, by trimmed ICP, by ICP on pairs alike, and by the simplex method
    on the agreement of features. At most 12 000 spots of a slice are searched: seconds, whatever its size.

    Source: SpatialFuser, "Coordinate re-matching modules"; the published NDT lets cells of one or two points
    score 1 for anything, and its ICP returns nothing.

    Examples
    --------
    >>> from atlasnmf.features.rigid import turned
    >>> rng = np.random.default_rng(0)
    >>> tissue = rng.uniform(0, 10, (3000, 2))
    >>> tissue = tissue[(tissue[:, 1] < 8) & (tissue.sum(axis=1) > 4)]
    >>> found = register(turned(40.0).apply(tissue) + 30, tissue, rng=rng)
    >>> round(found.rigid.degrees), found.score > 0.5
    (-40, True)
    """
    moving, fixed = _checked(moving, fixed, method, features)
    if method == "none":
        return Registration(Rigid.identity(), float("nan"), "none", unit_notes(moving, fixed))
    notes = unit_notes(moving, fixed)
    pair = SlicePair(moving, fixed, features, rng)
    found = [item for start in pair.starts(method, reflection) for item in pair.refined(start, method)]
    worth = [pair.worth(move) for _, move in found]
    found += pair.polished(*found[int(np.argmax(worth))])
    worth += [pair.worth(move) for _, move in found[len(worth) :]]
    best = int(np.argmax(worth))
    how, move = found[best]
    rivals = [(w, m) for w, (_, m) in zip(worth, found, strict=True) if far_apart(m, move)]
    rivals += [(pair.worth(other), other) for other in turned_about(move, fixed.mean(axis=0))]
    score = pair.score(worth[best], max(w for w, _ in rivals))
    rival = max(rivals, key=lambda item: item[0])
    if score < (POOR_SCORE if features is not None else POOR_OUTLINE):
        cue = "outline alone" if features is None else "tissue"
        why = f"they may not overlap, or the {cue} may not tell one turn from another"
        notes += (Note(f"agrees poorly with the slice it was laid onto: {why}", f"score {score:.2f}"),)
    if rival[0] > worth[best] - _CLOSE * abs(worth[best]):
        further = f"{abs((rival[1].degrees - move.degrees + 180) % 360 - 180):.0f} degrees further"
        over = "turned over" if rival[1].reflected != move.reflected else further
        notes += (Note("another turn fits almost as well", over),)
    return Registration(move, score, how, notes)


def _extent(points: np.ndarray) -> float:
    """Return the root mean square distance from the centre."""
    return float(np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean()))


def unit_notes(moving: np.ndarray, fixed: np.ndarray) -> tuple[Note, ...]:
    """Say so when the extents of two slices differ so much that their units may."""
    ratio = _extent(moving) / _extent(fixed)
    if 1 / _UNITS_DIFFER < ratio < _UNITS_DIFFER:
        return ()
    text = (
        "much larger or smaller than the slice it was laid onto: coordinates may be in different units; give"
    )
    return (Note(f"{text} them in one", f"{max(ratio, 1 / ratio):.3g}-fold", of_units=True),)


def _checked(
    moving: np.ndarray, fixed: np.ndarray, method: str, features: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    if method not in METHODS:
        raise BadOption(f"no such registration {method!r}; use one of {', '.join(METHODS)}")
    if method == "features" and features is None:
        raise BadOption("registration by features needs scores that both slices share; use auto, icp or ndt")
    for points in (moving, fixed):
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < FEWEST_SPOTS:
            raise BadInput(
                f"registration needs ten spots in the plane or more, got positions of {points.shape}"
            )
        if not np.isfinite(points).all():
            raise BadInput("registration needs finite positions")
        if not np.ptp(points, axis=0).any():
            raise BadInput("all spots of a slice lie at the same place; check the positions")
    if features is not None:
        shapes = features[0].shape, features[1].shape
        if shapes[0][1:] != shapes[1][1:] or (shapes[0][0], shapes[1][0]) != (len(moving), len(fixed)):
            raise BadInput(
                f"features of {shapes[0]} and {shapes[1]} do not go with {len(moving)} and {len(fixed)} spots"
            )
        if not (np.isfinite(features[0]).all() and np.isfinite(features[1]).all()):
            raise BadInput("registration needs finite features")
    return np.asarray(moving, np.float64), np.asarray(fixed, np.float64)
