"""One panel per slice, all at the same scale: reading what to draw, laying panels out, drawing spots."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.axes import given_axes
from atlasnmf.plots.style import MISSING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

    from atlasnmf.store.atlas import Atlas
    from atlasnmf.store.tables import TableHandle

__all__ = [
    "SHADE_ABOVE",
    "Panel",
    "bar_length",
    "bar_text",
    "draw_spots",
    "frame",
    "grid",
    "panels_of",
    "read_unit",
    "scale_bar",
]

#: Spots of a figure above which pixels are shaded in place of drawing points.
SHADE_ABOVE = 500_000
_DPI = 150


@dataclass(frozen=True)
class Panel:
    """What one slice shows.

    Parameters
    ----------
    name
        Of the slice.
    xy
        The first two coordinates of its spots, float64, shape (n, 2).
    values
        Shape (n,) or (n, k).
    """

    name: str
    xy: np.ndarray
    values: np.ndarray

    @cached_property
    def corners(self) -> np.ndarray:
        """The smallest and the largest coordinates, shape (2, 2)."""
        return np.stack([self.xy.min(axis=0), self.xy.max(axis=0)])

    @property
    def span(self) -> np.ndarray:
        """Width and height."""
        return self.corners[1] - self.corners[0]


def panels_of(
    atlas: Atlas, read: Callable[[TableHandle], np.ndarray | None], slices: Sequence[str] | None = None
) -> list[Panel]:
    """Read what each slice shows, one table at a time.

    Parameters
    ----------
    atlas
        The open atlas.
    read
        Gives the values of a table's spots, one row per spot, or None for a table without any.
    slices
        Slices to show, in this order; all with values when not given.

    Raises
    ------
    BadOption
        There is no such slice, or it has no values.
    """
    from atlasnmf.store.names import no_such

    names = [info.name for info in atlas.slices]
    if slices is not None and not len(slices):
        raise BadOption("no slice is named; name one at least, or leave slices out for all")
    for name in slices or ():
        if name not in names:
            raise BadOption(no_such("slice", name, names, atlas.name))
    codes = atlas.slice_codes()
    found: dict[str, Panel] = {}
    for table, spots in atlas.table_spots():
        own = codes[spots]
        wanted = [code for code in np.unique(own) if slices is None or names[code] in slices]
        values = read(table) if wanted else None
        if values is None:
            continue
        xy = np.asarray(atlas.coordinates_of(table), np.float64)[:, :2]
        for code in wanted:
            here = np.flatnonzero(own == code)
            found[names[code]] = Panel(names[code], xy[here], values[here])
    for name in slices or ():
        if name not in found:
            raise BadOption(f"slice {name!r} has no such result; choose among {', '.join(found) or 'none'}")
    return [found[name] for name in (slices or names) if name in found]


def grid(
    n_rows: int, n_columns: int, panels: Sequence[Panel], panel_width: float, axes: Any = None
) -> np.ndarray:
    """Make axes for ``n_rows`` x ``n_columns`` panels of the slices' shape, or take the ones given.

    Returns
    -------
    numpy.ndarray
        Axes, shape (n_rows, n_columns).

    Raises
    ------
    BadOption
        Another number of axes was given.
    """
    if not n_rows * n_columns:
        raise BadOption("there is nothing to draw; name one factor, gene or colour at least")
    if axes is not None:
        return given_axes(axes, n_rows * n_columns, "panel").reshape(n_rows, n_columns)
    import matplotlib.pyplot as plt

    width, height = _span(panels)
    panel_height = panel_width * min(max(height / max(width, 1e-12), 0.3), 3.0)
    _, made = plt.subplots(
        n_rows,
        n_columns,
        squeeze=False,
        layout="constrained",
        figsize=(panel_width * n_columns + 0.8, (panel_height + 0.3) * n_rows),
        dpi=_DPI,
    )
    return made


def _span(panels: Sequence[Panel]) -> tuple[float, float]:
    """Return width and height that hold every slice, a little margin included."""
    spans = [panel.span for panel in panels if len(panel.xy)]
    if not spans:
        raise BadInput("no slice has spots to draw")
    width, height = np.max(spans, axis=0) * 1.04
    return max(width, 1e-9 + 0.01 * height), max(height, 1e-9 + 0.01 * width)


def frame(axes: Axes, panel: Panel, panels: Sequence[Panel], *, invert_y: bool, unit: str) -> None:
    """Give a panel the limits all slices share, its title and, in the first panel, a scale bar."""
    width, height = _span(panels)
    centre = panel.corners.mean(axis=0)
    axes.set_xlim(centre[0] - width / 2, centre[0] + width / 2)
    low, high = centre[1] - height / 2, centre[1] + height / 2
    axes.set_ylim(*((high, low) if invert_y else (low, high)))
    axes.set_aspect("equal", adjustable="box")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if panel is panels[0]:
        scale_bar(axes, unit)


def scale_bar(axes: Axes, unit: str) -> float:
    """Draw a bar of a round length, about a fifth of the width, below the slice; return the length."""
    from matplotlib.transforms import blended_transform_factory

    low, high = axes.get_xlim()
    length = bar_length(0.22 * abs(high - low), unit)
    place = blended_transform_factory(axes.transData, axes.transAxes)
    start = min(low, high) + 0.02 * abs(high - low)
    axes.plot(
        [start, start + length],
        [-0.02, -0.02],
        transform=place,
        color="black",
        linewidth=1.5,
        clip_on=False,
        solid_capstyle="butt",
        label="_scale_bar",
    )
    text = bar_text(length, unit)
    axes.text(start + length / 2, -0.035, text, transform=place, ha="center", va="top", fontsize=6)
    return length


def read_unit(text: str) -> tuple[float, str]:
    """Return how many of a unit one step of the coordinates is, and the unit.

    Raises
    ------
    BadOption
        The number before the unit is not above zero.

    Examples
    --------
    >>> read_unit("0.5 µm"), read_unit("mm")
    ((0.5, 'µm'), (1.0, 'mm'))
    """
    found = re.fullmatch(r"\s*([-+]?[0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?)\s*(\S.*)", text, re.IGNORECASE)
    if found is None:
        return 1.0, text.strip()
    size = float(found[1])
    if not 0 < size < np.inf:
        raise BadOption(f"unit {text!r}: the size of a step must be above zero, such as '0.5 µm'")
    return size, found[2].strip()


def bar_length(most: float, unit: str = "") -> float:
    """Return the longest bar, in coordinates, that is a round number of the unit and no longer than ``most``.

    Parameters
    ----------
    most
        Length there is for the bar, in coordinates.
    unit
        Unit of the coordinates, ``"µm"``; for pixels their size, ``"0.5 µm"``.

    Examples
    --------
    >>> bar_length(70.0), bar_length(70.0, "0.5 µm")
    (50.0, 40.0)
    """
    size, _ = read_unit(unit)
    target = max(most, 1e-30) * size
    power = 10.0 ** np.floor(np.log10(target))
    return float(power * max(step for step in (1, 2, 5) if step * power <= target * (1 + 1e-12))) / size


def bar_text(length: float, unit: str = "") -> str:
    """Return what a bar of a length in coordinates is called.

    Examples
    --------
    >>> bar_text(50.0), bar_text(40.0, "0.5 µm"), bar_text(5000.0, "µm")
    ('50 units', '20 µm', '5 mm')
    """
    size, name = read_unit(unit)
    real = length * size
    if name.lower().rstrip("s") in ("µm", "um", "μm", "micrometer", "micrometre", "micron"):
        return f"{real / 1000:g} mm" if real >= 1000 else f"{real:g} µm"
    return f"{real:g} {name or 'units'}"


def _batches(panel: Panel, values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield spots without a value, then spots with one, the largest values last and so on top."""
    known = np.isfinite(values)
    if not known.all():
        yield panel.xy[~known], None
    order = np.flatnonzero(known)[np.argsort(values[known], kind="stable")]
    yield panel.xy[order], values[order]


def draw_spots(
    axes: Axes,
    panel: Panel,
    values: np.ndarray,
    *,
    cmap: Colormap,
    limits: tuple[float, float],
    n_drawn: int,
    categorical: bool = False,
) -> Any:
    """Draw the spots of a slice as points, or as shaded pixels when the whole figure has very many.

    Parameters
    ----------
    axes
        A framed panel.
    panel
        The slice.
    values
        Colour value of each spot, shape (n,); NaN draws grey.
    cmap, limits
        Colours, and the values at their ends.
    n_drawn
        Spots of the whole figure: above :data:`SHADE_ABOVE` pixels are shaded.
    categorical
        Values are codes: a pixel takes the commonest, not the mean.

    Returns
    -------
    The artist that carries the colours.
    """
    if n_drawn > SHADE_ABOVE:
        return _shade(axes, panel, values, cmap, limits, categorical)
    artist: Any = None
    size = _point_size(axes, panel)
    for xy, colours in _batches(panel, values):
        style: dict[str, Any] = {"s": size, "linewidths": 0, "marker": "o", "rasterized": True}
        if colours is None:
            axes.scatter(xy[:, 0], xy[:, 1], color=MISSING, **style)
        else:
            low, high = limits
            artist = axes.scatter(xy[:, 0], xy[:, 1], c=colours, cmap=cmap, vmin=low, vmax=high, **style)
    return artist


def _point_size(axes: Axes, panel: Panel) -> float:
    """Area in square points at which neighbouring spots just touch."""
    box = axes.get_window_extent()
    points_per_unit = box.width / axes.figure.dpi * 72 / max(abs(np.diff(axes.get_xlim())[0]), 1e-12)
    # The filled part of its bounding box is about 0.7 of it for round tissue.
    pitch = np.sqrt(0.7 * max(panel.span.prod(), 1e-12) / max(len(panel.xy), 1))
    return float(np.clip((1.1 * pitch * points_per_unit) ** 2, 0.05, 60.0))


def _shade(
    axes: Axes,
    panel: Panel,
    values: np.ndarray,
    cmap: Colormap,
    limits: tuple[float, float],
    categorical: bool,
) -> Any:
    box = axes.get_window_extent()
    x_range, y_range = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    # No finer than the spots lie apart, or the pixels between them stay empty.
    area = (x_range[1] - x_range[0]) * (y_range[1] - y_range[0])
    covered = panel.span.prod() / max(area, 1e-12)
    full = np.array([box.width, box.height])
    finest = np.sqrt(1.3 * len(panel.xy) / max(covered, 1e-3) / full.prod())
    width, height = np.maximum((full * min(1.0, finest)).astype(int), 8).tolist()
    n_groups = int(limits[1] - limits[0]) if categorical else None
    ylim = axes.get_ylim()
    ranges = x_range, y_range
    artist = draw_pixels(axes, panel.xy, values, (height, width), ranges, cmap, limits, n_groups)
    axes.set_ylim(*ylim)
    return artist


def draw_pixels(
    axes: Axes,
    xy: np.ndarray,
    values: np.ndarray,
    shape: tuple[int, int],
    ranges: tuple[list[float], list[float]],
    cmap: Colormap,
    limits: tuple[float, float],
    n_groups: int | None = None,
) -> Any:
    """Draw spots gathered into pixels (see :func:`shaded`), grey where none has a value; return the image."""
    from matplotlib.colors import ListedColormap

    image, missing = shaded(xy, values, shape, ranges, n_groups)
    style: dict[str, Any] = {
        "extent": (*ranges[0], *ranges[1]),
        "origin": "lower",
        "interpolation": "nearest",
    }
    if missing.any():
        axes.imshow(np.where(missing, 0.0, np.nan), cmap=ListedColormap([MISSING]), **style)
    return axes.imshow(image, cmap=cmap, vmin=limits[0], vmax=limits[1], **style)


def shaded(
    xy: np.ndarray,
    values: np.ndarray,
    shape: tuple[int, int],
    ranges: tuple[list[float], list[float]],
    n_groups: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Gather spots into pixels.

    Parameters
    ----------
    xy
        Shape (n, 2).
    values
        Shape (n,); NaN for spots without a value.
    shape
        Rows and columns of pixels.
    ranges
        Ends of x and of y.
    n_groups
        Values are codes below this number: a pixel takes the commonest in place of the mean.

    Returns
    -------
    image, missing
        float64 with NaN where no spot has a value, and bool where spots lie but none has one; rows upwards.

    Notes
    -----
    Two weighted counts: 0.03 s a million spots. Datashader's first picture takes about 9 s, most of it to
    compile.
    """
    place = np.zeros(len(xy), np.int64)
    for axis, (low, high), n_pixels in zip((1, 0), ranges[::-1], shape, strict=True):
        along = ((xy[:, axis] - low) * (n_pixels / (high - low))).astype(np.int64)
        place = place * n_pixels + np.clip(along, 0, n_pixels - 1)
    n_pixels = shape[0] * shape[1]
    known = np.isfinite(values)
    if n_groups is None:
        n_known = np.bincount(place[known], minlength=n_pixels)
        total = np.bincount(place[known], weights=values[known], minlength=n_pixels)
        image = np.divide(total, n_known, out=np.full(n_pixels, np.nan), where=n_known > 0)
    else:
        cells = place[known] * n_groups + values[known].astype(np.int64)
        counted = np.bincount(cells, minlength=n_pixels * n_groups).reshape(n_pixels, n_groups)
        n_known = counted.sum(axis=1)
        image = np.where(n_known > 0, counted.argmax(axis=1), np.nan)
    missing = (n_known == 0) & (np.bincount(place[~known], minlength=n_pixels) > 0)
    return image.reshape(shape), missing.reshape(shape)
