"""Maps of factors and domains over the slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.options import at_least
from atlasnmf.plots.axes import colour_bar
from atlasnmf.plots.panels import Panel, draw_spots, frame, grid, panels_of
from atlasnmf.plots.stored import unit_of
from atlasnmf.plots.style import CONTINUOUS, MISSING, category_colours, styled
from atlasnmf.result_names import factor_key
from atlasnmf.store.atlas import opened

if TYPE_CHECKING:
    from atlasnmf.store.atlas import AtlasLike
    from atlasnmf.store.tables import TableHandle

__all__ = ["domains", "factors"]


def factors(
    atlas: AtlasLike,
    key: str = "inspire",
    *,
    factors: Sequence[int] | None = None,
    slices: Sequence[str] | None = None,
    cmap: str = CONTINUOUS,
    percentile: float = 99.0,
    unit: str = "",
    invert_y: bool = True,
    panel_width: float = 2.0,
    axes: Any = None,
) -> np.ndarray:
    """Map factors over the slices: a row per factor, a column per slice, colours shared along a row.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    key
        A model's result (``"inspire"``, ``"stanmf"``) or any obsm key.
    factors
        Which columns, from 0; all when not given.
    slices
        Which slices; all with the result when not given.
    cmap
        A matplotlib colour map.
    percentile
        Of the values of a factor over all slices drawn, the end of the colours. They start at 0 for values
        that are never negative.
    unit
        Unit of the coordinates, written at the scale bar: ``"µm"``, or of pixels their size, ``"0.5 µm"``.
        What the store says of it when not given.
    invert_y
        Draw y downwards, as microscopes and spatialdata-plot do.
    panel_width
        Inches.
    axes
        Axes to draw on, one a panel, row by row; a new figure when not given.

    Returns
    -------
    numpy.ndarray
        Axes, shape (n_factors, n_slices).

    Raises
    ------
    BadInput
        There is no such result.
    BadOption
        There is no such factor or slice.

    Notes
    -----
    Spots are rasterised; above 500,000 in one figure they are gathered into pixels. Of three coordinates
    the first two are drawn.

    Examples
    --------
    >>> import atlasnmf as an
    >>> axes = an.pl.factors("embryo.zarr", "inspire", factors=[0, 2])
    >>> axes.shape
    (2, 2)
    >>> axes[0, 0].figure.savefig("factors.png")
    """
    atlas = opened(atlas)
    obsm_key = factor_key(atlas, key)
    unit = unit or unit_of(atlas)
    chosen: list[int] | None = None if factors is None else [int(factor) for factor in factors]

    def read(table: TableHandle) -> np.ndarray | None:
        if obsm_key not in table.keys("obsm"):
            return None
        values = table.obsm(obsm_key)
        n_factors = values.shape[1]
        for factor in chosen or ():
            if not 0 <= factor < n_factors:
                raise BadOption(f"no factor {factor} in {obsm_key!r}; choose from 0 to {n_factors - 1}")
        return values if chosen is None else values[:, chosen]

    panels = panels_of(atlas, read, slices)
    numbers = chosen if chosen is not None else list(range(panels[0].values.shape[1]))
    with styled():
        made = grid(len(numbers), len(panels), panels, panel_width, axes)
        import matplotlib as mpl

        colours = mpl.colormaps[cmap]
        _frame_all(made, panels, invert_y, unit)
        n_drawn = sum(len(panel.xy) for panel in panels)
        for row, number in enumerate(numbers):
            limits = _limits([panel.values[:, row] for panel in panels], percentile)
            for axis, panel in zip(made[row], panels, strict=True):
                artist = draw_spots(
                    axis, panel, panel.values[:, row], cmap=colours, limits=limits, n_drawn=n_drawn
                )
            made[row, 0].set_ylabel(f"factor {number}")
            if artist is not None:
                colour_bar(artist, made[row])
    return made


def _frame_all(made: np.ndarray, panels: Sequence[Panel], invert_y: bool, unit: str) -> None:
    for row, line in enumerate(made):
        for axis, panel in zip(line, panels, strict=True):
            frame(axis, panel, panels, invert_y=invert_y, unit=unit)
            if row == 0:
                axis.set_title(panel.name)
    # Sizes of points depend on the sizes of axes, which the layout decides.
    made[0, 0].figure.draw_without_rendering()


def _limits(values: Sequence[np.ndarray], percentile: float) -> tuple[float, float]:
    finite = np.concatenate([part[np.isfinite(part)] for part in values])
    if not len(finite):
        return 0.0, 1.0
    low = min(0.0, float(np.percentile(finite, 100 - percentile))) if finite.min() < 0 else 0.0
    high = float(np.percentile(finite, percentile))
    return low, high if high > low else max(float(finite.max()), low + 1e-12)


def domains(
    atlas: AtlasLike,
    key: str = "domains",
    *,
    slices: Sequence[str] | None = None,
    palette: Mapping[str, Any] | None = None,
    legend: bool = True,
    n_columns: int = 4,
    unit: str = "",
    invert_y: bool = True,
    panel_width: float = 2.4,
    axes: Any = None,
) -> np.ndarray:
    """Map an obs column of groups over the slices, a group in the same colour everywhere.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    key
        obs column: categories, strings or whole numbers.
    slices
        Which slices; all with the column when not given.
    palette
        Colours by category; the house palette when not given.
    legend
        Name the colours beside the figure.
    n_columns
        Panels in a row.
    unit, invert_y, panel_width
        As in :func:`factors`.
    axes
        Axes to draw on, one a slice; a new figure when not given.

    Returns
    -------
    numpy.ndarray
        Axes, shape (n_slices,).

    Raises
    ------
    BadInput
        No table has the column.
    BadOption
        There is no such slice.

    Examples
    --------
    >>> import atlasnmf as an
    >>> [axis.get_title() for axis in an.pl.domains("embryo.zarr", "domains")]
    ['slice_1', 'slice_2']
    """
    import pandas as pd

    atlas = opened(atlas)
    columns = {t.name: pd.Categorical(t.obs_column(key)) for t in atlas.tables if key in t.obs_columns()}
    if not columns:
        from atlasnmf.store.names import no_such

        raise BadInput(f"{no_such('obs column', key, atlas.keys('obs'), atlas.name)}; run tl.domains first")
    names = _ordered({category for column in columns.values() for category in column.categories})
    place = {name: float(i) for i, name in enumerate(names)}

    def read(table: TableHandle) -> np.ndarray | None:
        if table.name not in columns:
            return None
        column = columns[table.name]
        lookup = np.array([*(place[category] for category in column.categories), np.nan])
        return lookup[column.codes]

    panels = panels_of(atlas, read, slices)
    unit = unit or unit_of(atlas)
    colours = dict(zip(names, category_colours(len(names)), strict=True)) | dict(palette or {})
    with styled():
        from matplotlib.colors import ListedColormap

        at_least(1, n_columns=n_columns)
        n_rows = -(-len(panels) // n_columns) if axes is None else 1
        n_across = min(n_columns, len(panels)) if axes is None else len(panels)
        made = grid(n_rows, n_across, panels, panel_width, axes).ravel()
        for spare in made[len(panels) :]:
            spare.set_visible(False)
        made = made[: len(panels)]
        _frame_all(made[None], panels, invert_y, unit)
        n_drawn = sum(len(panel.xy) for panel in panels)
        shown = ListedColormap([colours[name] for name in names])
        for axis, panel in zip(made, panels, strict=True):
            draw_spots(
                axis,
                panel,
                panel.values,
                cmap=shown,
                limits=(0, len(names)),
                n_drawn=n_drawn,
                categorical=True,
            )
        if legend:
            missing = any(np.isnan(panel.values).any() for panel in panels)
            _legend(made, [(str(name), colours[name]) for name in names], missing)
    return made


def _ordered(names: set[Any]) -> list[Any]:
    from atlasnmf.store.names import natural_key

    return sorted(names, key=lambda name: natural_key(str(name)))


def _legend(made: np.ndarray, entries: list[tuple[str, Any]], missing: bool) -> None:
    from matplotlib.lines import Line2D

    entries = entries + [("none", MISSING)] * missing
    marks = [
        Line2D([], [], marker="o", linestyle="", markersize=4, color=colour, label=name)
        for name, colour in entries
    ]
    n_across = -(-len(marks) // 20)
    if len(made) > 1:
        made[0].figure.legend(handles=marks, loc="outside right upper", ncols=n_across)
    else:
        made[0].legend(handles=marks, loc="upper left", bbox_to_anchor=(1.0, 1.0), ncols=n_across)
