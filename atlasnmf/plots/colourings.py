"""What colours spots: an obs column, the slice, or a factor; values or groups, read once for all tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.axes import colour_bar
from atlasnmf.plots.style import CONTINUOUS, MISSING, category_colours
from atlasnmf.result_names import factor_ends, first_of, no_result
from atlasnmf.store.names import natural_key, no_such

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlasnmf.store.atlas import Atlas

__all__ = ["Colouring", "colouring_of", "key_of_colours"]


@dataclass(frozen=True)
class Colouring:
    """A colour for every spot of an atlas.

    Parameters
    ----------
    title
        What the colours say.
    values
        float64, shape (n,): a value, or the number of a group; NaN for neither.
    groups
        Names of the groups; none when values are numbers.
    """

    title: str
    values: np.ndarray
    groups: tuple[str, ...] = ()

    def limits(self, percentile: float = 99.0) -> tuple[float, float]:
        """Return the values at the ends of the colours."""
        known = self.values[np.isfinite(self.values)]
        if self.groups or not len(known):
            return 0.0, float(max(len(self.groups), 1))
        low = 0.0 if known.min() >= 0 else float(np.percentile(known, 100 - percentile))
        high = float(np.percentile(known, percentile))
        return low, high if high > low else max(float(known.max()), low + 1e-12)

    def rgba(self, rows: np.ndarray, cmap: str = CONTINUOUS) -> np.ndarray:
        """Return colours of some spots, shape (n_rows, 4)."""
        import matplotlib as mpl
        from matplotlib.colors import to_rgba

        values = self.values[rows]
        known = np.isfinite(values)
        colours = np.tile(to_rgba(MISSING), (len(values), 1))
        if self.groups:
            palette = np.array([(*colour, 1.0) for colour in category_colours(len(self.groups))])
            colours[known] = palette[values[known].astype(int)]
        else:
            low, high = self.limits()
            colours[known] = mpl.colormaps[cmap]((np.clip(values[known], low, high) - low) / (high - low))
        return colours


def colouring_of(atlas: Atlas, color: str | int | None, key: str) -> Colouring:
    """Read what colours spots.

    Parameters
    ----------
    atlas
        The open atlas.
    color
        ``"slice"`` (also None), an obs column, or the number of a factor of the result ``key``.
    key
        Name of the result, or an obsm key; ``X_`` before it is left out.

    Raises
    ------
    BadInput
        There is no such column or result.
    BadOption
        There is no such factor.
    """
    if isinstance(color, int | np.integer) and not isinstance(color, bool):
        return _factor(atlas, int(color), key.removeprefix("X_"))
    if color is None or color == "slice":
        return Colouring("slice", atlas.slice_codes().astype(np.float64), tuple(s.name for s in atlas.slices))
    return _column(atlas, str(color))


def _factor(atlas: Atlas, factor: int, key: str) -> Colouring:
    known = atlas.keys("obsm")
    ends = (*factor_ends(), "")
    if first_of(key, ends, known) is None:
        raise no_result("result", key, known, atlas)
    values = np.full(atlas.n_spots, np.nan)
    for table, spots in atlas.table_spots():
        name = first_of(key, ends, table.keys("obsm"))
        if name is None:
            continue
        found = table.obsm(name)
        if not 0 <= factor < found.shape[1]:
            raise BadOption(f"no factor {factor} in {name!r}; choose from 0 to {found.shape[1] - 1}")
        values[spots] = found[:, factor]
    return Colouring(f"factor {factor}", values)


def _column(atlas: Atlas, name: str) -> Colouring:
    import pandas as pd

    columns: Mapping[str, Any] = {t.name: t.obs_column(name) for t in atlas.tables if name in t.obs_columns()}
    if not columns:
        raise BadInput(no_such("obs column", name, atlas.keys("obs"), atlas.name))
    values = np.full(atlas.n_spots, np.nan)
    if all(getattr(column.dtype, "kind", "O") == "f" for column in columns.values()):
        for table, spots in atlas.table_spots():
            if table.name in columns:
                values[spots] = columns[table.name]
        return Colouring(name, values)
    made = {table: pd.Categorical(column) for table, column in columns.items()}
    groups = sorted({str(c) for column in made.values() for c in column.categories}, key=natural_key)
    place = {group: float(i) for i, group in enumerate(groups)}
    for table, spots in atlas.table_spots():
        if table.name in made:
            column = made[table.name]
            lookup = np.array([*(place[str(c)] for c in column.categories), np.nan])
            values[spots] = lookup[column.codes]
    return Colouring(name, values, tuple(groups))


def key_of_colours(axes: Axes, colouring: Colouring, cmap: str = CONTINUOUS) -> None:
    """Draw a legend of groups, or a bar of values, beside axes."""
    if colouring.groups:
        from matplotlib.lines import Line2D

        marks = [
            Line2D([], [], marker="o", linestyle="", markersize=4, color=colour, label=name)
            for name, colour in zip(colouring.groups, category_colours(len(colouring.groups)), strict=True)
        ]
        axes.legend(
            handles=marks,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            ncols=-(-len(marks) // 20),
            title=colouring.title,
        )
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low, high = colouring.limits()
    colour_bar(ScalarMappable(Normalize(low, high), cmap), axes, colouring.title, pad=0.02)
