"""What slices are made of: shares of groups or of factors over stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.plots.axes import one_axes
from atlasnmf.plots.colourings import colouring_of
from atlasnmf.plots.style import MISSING, category_colours, styled
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such
from atlasnmf.store.runs import obsm_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from atlasnmf.store.atlas import Atlas, AtlasLike

__all__ = ["proportions"]


def proportions(
    atlas: AtlasLike,
    key: str = "domains",
    *,
    by: str = "slice",
    panel_width: float = 4.2,
    axes: Axes | None = None,
) -> Axes:
    """Draw what each slice or stage is made of: stacked shares of an obs column, or mean shares of factors.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    key
        obs column of groups, or an obsm key whose rows are shares (``"inspire_factors"``).
    by
        A bar each: ``"slice"`` in the atlas's order, or an obs column such as the stage, in natural order.
    panel_width
        Inches.
    axes
        Axes to draw on; a new figure when not given.

    Returns
    -------
    matplotlib.axes.Axes
        Bars of height 1; spots without a group are grey.

    Raises
    ------
    BadInput
        There is no such column or obsm key, or ``by`` is a column of numbers.

    Examples
    --------
    >>> import anndata, matplotlib, pandas as pd
    >>> matplotlib.use("Agg")
    >>> obs = pd.DataFrame({"domains": list("aabb"), "stage": list("xxxy")}, index=list("1234"))
    >>> adata = anndata.AnnData(np.ones((4, 1)), obs=obs, obsm={"spatial": np.eye(4)[:, :2]})
    >>> bars = proportions(adata, by="stage").containers
    >>> [[round(float(bar.get_height()), 2) for bar in group] for group in bars]
    [[0.67, 0.0], [0.33, 1.0]]
    """
    atlas = opened(atlas)
    stages = colouring_of(atlas, by, by)
    if not stages.groups:
        raise BadInput(f"obs column {by!r} holds numbers; give a column of groups, such as the stage")
    codes = np.where(np.isfinite(stages.values), stages.values, -1).astype(np.int64)
    if any(key in table.obs_columns() for table in atlas.tables):
        names, table = _of_groups(atlas, key, codes, len(stages.groups))
    else:
        names, table = _of_shares(atlas, key, codes, len(stages.groups))
    colours: list[Any] = list(category_colours(len(names)))
    rest = 1.0 - table.sum(axis=1)
    if (rest > 1e-6).any():
        names, table = [*names, "none"], np.column_stack([table, rest])
        colours.append(MISSING)
    with styled():
        axes = one_axes(axes, panel_width, 0.62 * panel_width)
        below = np.zeros(len(table))
        for name, share, colour in zip(names, table.T, colours, strict=True):
            axes.bar(range(len(table)), share, bottom=below, color=colour, width=0.85, label=name)
            below += share
        tilt = 45 if len(table) > 6 or max(map(len, stages.groups)) > 8 else 0
        axes.set_xticks(range(len(table)), stages.groups, rotation=tilt, ha="right" if tilt else "center")
        axes.set_ylim(0, 1)
        axes.set_ylabel(f"share of {key}")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), ncols=-(-len(names) // 16), reverse=True)
    return axes


def _of_groups(atlas: Atlas, key: str, stages: np.ndarray, n_stages: int) -> tuple[list[str], np.ndarray]:
    groups = colouring_of(atlas, key, key)
    if not groups.groups:
        raise BadInput(f"obs column {key!r} holds numbers; give a column of groups, such as domains")
    counts = np.zeros((n_stages, len(groups.groups)))
    known = np.isfinite(groups.values) & (stages >= 0)
    np.add.at(counts, (stages[known], groups.values[known].astype(np.int64)), 1)
    sizes = np.bincount(stages[stages >= 0], minlength=n_stages)
    return list(groups.groups), counts / np.maximum(sizes, 1)[:, None]


def _of_shares(atlas: Atlas, key: str, stages: np.ndarray, n_stages: int) -> tuple[list[str], np.ndarray]:
    """Return mean shares by stage over the spots that have them, read in runs of rows."""
    sums, sizes = None, np.zeros(n_stages)
    for table, spots in atlas.table_spots():
        if key not in table.keys("obsm"):
            continue
        for start, stored in obsm_runs([table], key):
            rows = np.asarray(stored, np.float64)
            own = stages[spots][start : start + len(rows)]
            known = np.isfinite(rows).all(axis=1) & (own >= 0)
            sums = np.zeros((n_stages, rows.shape[1])) if sums is None else sums
            np.add.at(sums, own[known], rows[known])
            sizes += np.bincount(own[known], minlength=n_stages)
    if sums is None:
        known_keys = {*atlas.keys("obs"), *atlas.keys("obsm")}
        raise BadInput(no_such("obs column or obsm key", key, sorted(known_keys), atlas.name))
    shares = sums / np.maximum(sizes, 1)[:, None]
    totals = shares.sum(axis=1, keepdims=True)
    return [f"factor {k}" for k in range(sums.shape[1])], shares / np.where(totals > 0, totals, 1.0)
