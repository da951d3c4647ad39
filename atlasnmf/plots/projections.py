"""Patterns of a volume seen along its three axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.axes import colour_bar, given_axes
from atlasnmf.plots.style import CONTINUOUS, styled
from atlasnmf.result_names import factor_key
from atlasnmf.store.atlas import opened

if TYPE_CHECKING:
    from atlasnmf.store.atlas import AtlasLike

__all__ = ["project", "projections"]

#: The two axes drawn, and the one looked along.
_VIEWS = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
_AXIS_NAMES = "xyz"
#: Spots a pixel holds on average where positions are on no grid.
_SPOTS_A_PIXEL = 2.0
#: Pixels along the longer side at most: what lies flat or in a line has no area to divide among spots.
_MOST_PIXELS = 1000


def project(
    positions: np.ndarray,
    values: np.ndarray,
    view: tuple[int, int],
    *,
    steps: np.ndarray | None = None,
    reduce: Literal["max", "mean"] = "max",
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """Gather spots into pixels along one axis.

    Parameters
    ----------
    positions
        Shape (n, 3).
    values
        Shape (n,); NaN counts as absent.
    view
        The axes across and up.
    steps
        Width of a pixel along each of the three axes; about two spots a pixel when not given.
    reduce
        A pixel is the largest value behind it, or the mean.

    Returns
    -------
    image, extent
        float64 with NaN where nothing lies, rows upwards; left, right, bottom, top.
    """
    known = np.isfinite(values)
    places, seen = np.asarray(positions, np.float64)[known][:, list(view)], values[known].astype(np.float64)
    if not len(seen):
        raise BadInput("no spot has a value to draw; fit a model first")
    low, high = places.min(axis=0), places.max(axis=0)
    if steps is None:
        width = np.full(2, _pixel_width(high - low, len(seen)))
    else:
        width = np.asarray(steps, np.float64)[list(view)]
    cells = np.floor((places - low) / width + 0.5).astype(np.int64)
    n_across, n_up = cells.max(axis=0) + 1
    pixel = cells[:, 1] * n_across + cells[:, 0]
    n_pixels = int(n_across * n_up)
    counts = np.bincount(pixel, minlength=n_pixels)
    if reduce == "max":
        image = np.full(n_pixels, -np.inf)
        np.maximum.at(image, pixel, seen)
    else:
        image = np.bincount(pixel, weights=seen, minlength=n_pixels) / np.maximum(counts, 1)
    image[counts == 0] = np.nan
    left, bottom = low - width / 2
    extent = (left, left + n_across * width[0], bottom, bottom + n_up * width[1])
    return image.reshape(n_up, n_across), (
        float(extent[0]),
        float(extent[1]),
        float(extent[2]),
        float(extent[3]),
    )


def _pixel_width(spans: np.ndarray, n_spots: int) -> float:
    longest = float(spans.max())
    if longest == 0:
        return 1.0
    by_area = np.sqrt(float(np.prod(spans)) * _SPOTS_A_PIXEL / n_spots)
    return max(float(by_area), longest / _MOST_PIXELS)


def projections(
    atlas: AtlasLike,
    key: str = "stanmf",
    *,
    patterns: Sequence[int] | None = None,
    reduce: Literal["max", "mean"] = "max",
    cmap: str = CONTINUOUS,
    percentile: float = 99.9,
    panel_width: float = 1.8,
    axes: Any = None,
) -> np.ndarray:
    """Draw patterns of a volume along its three axes: a row per pattern, a column per view.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory, with positions of three coordinates.
    key
        A result (``"stanmf"``) or an obsm key.
    patterns
        Which columns, from 0; all when not given.
    reduce
        A pixel shows the largest value along the line of sight, ``"max"``, or the ``"mean"``.
    cmap, percentile
        Colours, and the percentile of a pattern's pixels at their end.
    panel_width
        Inches.
    axes
        Axes to draw on, three a pattern, row by row; a new figure when not given.

    Returns
    -------
    numpy.ndarray
        Axes, shape (n_patterns, 3).

    Raises
    ------
    BadInput
        There is no such result, or positions have two coordinates.
    BadOption
        There is no such pattern, or another number of axes was given.

    Notes
    -----
    Voxels (``obsm["voxel"]``) are pixels; other spots are gathered, about two to a pixel.

    Examples
    --------
    >>> import atlasnmf as an
    >>> an.pl.projections("brain.zarr", "stanmf", patterns=[0, 1]).shape
    (2, 3)
    """
    if reduce not in ("max", "mean"):
        raise BadOption(f"no way {reduce!r} to see through a volume; choose max or mean")
    atlas = opened(atlas)
    stored = factor_key(atlas, key)
    tables = [table for table in atlas.tables if stored in table.keys("obsm")]
    positions = np.concatenate([atlas.coordinates_of(table) for table in tables])
    if positions.shape[1] != 3:
        raise BadInput("these positions have two coordinates; draw their patterns with pl.factors")
    values = np.concatenate([table.obsm(stored) for table in tables])
    chosen = list(range(values.shape[1])) if patterns is None else [int(pattern) for pattern in patterns]
    for pattern in chosen:
        if not 0 <= pattern < values.shape[1]:
            raise BadOption(f"no pattern {pattern} in {stored!r}; choose from 0 to {values.shape[1] - 1}")
    steps = _steps(tables, positions)
    with styled():
        made = _axes(len(chosen), positions, panel_width, axes)
        for row, pattern in zip(made, chosen, strict=True):
            images = [
                project(positions, values[:, pattern], (across, up), steps=steps, reduce=reduce)
                for across, up, _ in _VIEWS
            ]
            pixels = np.concatenate([image[np.isfinite(image)] for image, _ in images])
            limits = (min(0.0, float(pixels.min())), float(np.percentile(pixels, percentile)))
            for axis, (image, extent), (across, up, along) in zip(row, images, _VIEWS, strict=True):
                artist = axis.imshow(
                    image,
                    extent=extent,
                    origin="lower",
                    cmap=cmap,
                    vmin=limits[0],
                    vmax=max(limits[1], limits[0] + 1e-12),
                    interpolation="nearest",
                )
                axis.set_xticks([])
                axis.set_yticks([])
                axis.set_xlabel(_AXIS_NAMES[across])
                axis.set_ylabel(_AXIS_NAMES[up])
                for spine in axis.spines.values():
                    spine.set_visible(False)
                if row is made[0] or (row == made[0]).all():
                    axis.set_title(f"along {_AXIS_NAMES[along]}")
            row[0].set_ylabel(f"pattern {pattern}\n{row[0].get_ylabel()}")
            colour_bar(artist, row)
    return made


def _steps(tables: Sequence[Any], positions: np.ndarray) -> np.ndarray | None:
    """Return the distance of voxels along the three axes of space; None for spots on no grid."""
    if not all("voxel" in table.keys("obsm") for table in tables):
        return None
    steps = np.zeros(3)
    spans = positions.max(axis=0) - positions.min(axis=0)
    # rounded to what storage and an affine leave of equal positions, in any unit
    grain = max(float(spans.max()), 1e-300) * 1e-7
    for axis in range(3):
        rounded = np.round((positions[:, axis] - positions[:, axis].min()) / grain)
        places = positions[np.unique(rounded, return_index=True)[1], axis]
        steps[axis] = np.diff(places).min() if len(places) > 1 else max(float(spans.max()), 1.0)
    # a grid turned against the axes has no such distance
    return steps if (spans / steps < 4 * len(positions) ** (1 / 2)).all() else None


def _axes(n_rows: int, positions: np.ndarray, panel_width: float, axes: Any) -> np.ndarray:
    if axes is not None:
        return given_axes(axes, 3 * n_rows, "panel").reshape(n_rows, 3)
    import matplotlib.pyplot as plt

    spans = positions.max(axis=0) - positions.min(axis=0)
    spans = np.maximum(spans, max(0.02 * float(spans.max()), 1e-300))
    widths = [spans[across] for across, _, _ in _VIEWS]
    height = max(spans[up] for _, up, _ in _VIEWS) / max(widths) * panel_width
    _, made = plt.subplots(
        n_rows,
        3,
        squeeze=False,
        layout="constrained",
        width_ratios=widths,
        figsize=(3 * panel_width + 0.8, (min(height, 2 * panel_width) + 0.3) * n_rows),
    )
    return made
