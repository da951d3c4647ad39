"""The graph of a whole atlas, slice by slice and part by part, into the working copy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.events import SILENT, Events
from atlasnmf.graph.build import slice_graph, slice_index, symmetric_union
from atlasnmf.graph.scale import check_degrees, default_radius, published_radius
from atlasnmf.reduce.tiles import map_tiles
from atlasnmf.schema import Csr
from atlasnmf.store.parts import Part, PartedCsr

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["settle_radii", "write_graph"]


def settle_radii(
    coordinates: np.ndarray,
    offsets: np.ndarray,
    radius: float | None,
    slice_names: Sequence[str],
    *,
    rule: str = "spacing",
) -> list[float]:
    """Return a radius for each slice, the user's or a chosen one, none of them absurd.

    Parameters
    ----------
    coordinates
        Positions in working order, shape (n, 2) or (n, 3).
    offsets
        First working row of every slice and the total, shape (S + 1,).
    radius
        The user's, for all slices; None to choose.
    slice_names
        For messages.
    rule
        How to choose: ``spacing`` (see :func:`~atlasnmf.graph.scale.default_radius`) or ``published``, from
        the first slice for all (see :func:`~atlasnmf.graph.scale.published_radius`).

    Raises
    ------
    BadOption
        The user's or the published radius makes an absurd graph; the message says the mean degree and a
        better radius.
    """
    by_slice = [coordinates[start:stop] for start, stop in pairwise(offsets)]
    if radius is None and rule == "spacing":
        return default_radius(by_slice)
    if radius is None:
        radius = published_radius(by_slice[0])
    for coords, name in zip(by_slice, slice_names, strict=True):
        check_degrees(coords, radius, slice_name=name)
    return [radius] * len(by_slice)


def write_graph(
    target: PartedCsr,
    coordinates: np.ndarray,
    offsets: np.ndarray,
    *,
    radii: Sequence[float] | None = None,
    n_neighbors: int | None = None,
    client: Client | None = None,
    n_workers: int = 1,
    events: Events = SILENT,
    stage: str | None = None,
) -> np.ndarray:
    """Write the neighbours of every spot, as working rows, the spot itself included.

    Parameters
    ----------
    target
        Where they go, n columns; parts that are there are not made again.
    coordinates, offsets
        As in :func:`settle_radii`.
    radii
        A radius for each slice: spots closer than it are neighbours.
    n_neighbors
        Or: each spot's nearest others, and whoever counts it among theirs.
    client, n_workers, events, stage
        How parts are run (see :func:`~atlasnmf.reduce.tiles.map_tiles`).

    Returns
    -------
    degrees
        Neighbours of every spot, itself included, int32, shape (n,).

    Notes
    -----
    Holds one slice's positions and index (some 70 bytes per spot); with ``n_neighbors`` also its edges.
    """
    missing = target.missing()
    for number, (start, stop) in enumerate(pairwise(offsets.tolist())):
        parts = [part for part in missing if part.slice_index == number]
        if not parts:
            continue
        coords = coordinates[start:stop]
        whole = None
        if n_neighbors is not None:
            whole = symmetric_union(slice_graph(coords, n_neighbors=n_neighbors))
        options: dict[str, Any] = {"radius": radii[number]} if radii is not None else {}
        index = slice_index(coords, **options) if whole is None else None
        task = partial(
            _write_part, target=target, coords=coords, first=start, whole=whole, index=index, **options
        )
        map_tiles(task, parts, client=client, n_workers=n_workers, events=events, stage=stage)
    return np.concatenate([target.row_nnz(part.start, part.stop) for part in target.parts]).astype(np.int32)


def _write_part(
    part: Part,
    *,
    target: PartedCsr,
    coords: np.ndarray,
    first: int,
    whole: Csr | None,
    index: Any,
    radius: float | None = None,
) -> None:
    start, stop = part.start - first, part.stop - first
    if whole is None:
        rows = slice_graph(coords, radius=radius, start=start, stop=stop, index=index)
    else:
        rows = whole.rows(start, stop)
    columns = rows.indices.astype(np.int64) + first
    target.write_part(part.index, Csr(rows.indptr, columns, rows.data, target.n_cols))
