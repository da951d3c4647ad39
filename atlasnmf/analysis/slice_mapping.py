"""A whole slice mapped onto another: the best partner of every spot, and whether to believe it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from atlasnmf.analysis.spots import StoredRows, slice_numbers, stored_rows
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.features import matching
from atlasnmf.seeds import rng_for
from atlasnmf.store.atlas import opened
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import Atlas, AtlasLike
    from atlasnmf.store.slices import SliceInfo

__all__ = ["SliceMapping", "map_slice"]


@dataclass(frozen=True)
class SliceMapping:
    """The best partner of every spot of the smaller of two slices.

    Parameters
    ----------
    slice, onto
        Names of the smaller slice, whose spots are mapped, and of the larger.
    spots
        A row per spot that the fit has kept, by its name: ``partner`` (name of the spot of the larger slice,
        empty without one in reach), ``cosine`` (float32, NaN without one) and ``passed``.
    radius
        Partners lie closer than this, in the unit of the positions.
    threshold
        Cosine above which a partner passed.
    """

    slice: str
    onto: str
    spots: pd.DataFrame
    radius: float
    threshold: float


def map_slice(
    atlas: AtlasLike,
    source: str,
    target: str,
    key: str = "spatialfuser",
    *,
    radius: float | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
    random_state: int = 0,
) -> SliceMapping:
    """Map every spot of the smaller of two slices to the spot of the other in reach that is most like it.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    source, target
        Names of the two slices, in either order; the one with fewer spots in the fit (of equals the source)
        is mapped onto the other.
    key
        The result of ``fit spatialfuser``: ``X_<key>`` and ``<key>_aligned`` are read.
    radius
        Reach in the unit of the positions; that of the fit when not given.
    key_added
        obs column of the partners' names, ``<key>_partner`` by default; beside it ``<key_added>_cosine`` and
        ``<key_added>_passed``, and the uns entry with the names of both slices and the figures. Only the
        table of the smaller slice has them; spots of other slices there have no partner.
    overwrite
        Replace an older mapping.
    random_state
        Seed of the random pairs.

    Returns
    -------
    SliceMapping

    Raises
    ------
    BadInput
        There is no such fit, it lacks a slice or has laid neither onto the other (and no radius is given), or
        nothing is in reach.
    BadOption
        There is no such slice, one is named twice, the radius is not positive, or a column exists.

    Notes
    -----
    A partner passes when the cosine of the embeddings is above the 95th percentile of 1000 random pairs in
    reach. Unlike the matches of the fit, partners are chosen from one side alone: many spots may have the
    same. The rows of both slices are held, and 8 bytes a pair in reach.

    Source: SpatialFuser, "Whole-slice Alignment".

    Examples
    --------
    >>> import atlasnmf as an
    >>> found = an.tl.map_slice("sections.zarr", "rna", "protein")
    >>> found.slice, found.onto, len(found.spots)
    ('rna', 'protein', 500)
    >>> "spatialfuser_partner_passed" in an.open_atlas("sections.zarr").table("rna").obs_columns()
    True
    """
    import pandas as pd

    if radius is not None and not 0 < radius < np.inf:
        raise BadOption(f"radius must be a positive distance, got {radius}")
    found = opened(atlas)
    ends = slice_numbers(found, [source, target])
    if ends[0] == ends[1]:
        raise BadOption(f"slice {source!r} is named twice; name two slices")
    written = key_added or f"{key}_partner"
    names = [written, f"{written}_cosine", f"{written}_passed"]
    refuse_existing(found, obs=names, uns=[written], overwrite=overwrite)
    rows = stored_rows(found, f"X_{key}"), stored_rows(found, f"{key}_aligned")
    infos = [found.slices[end] for end in ends]
    _refuse_unfitted(infos, rows)
    reach = _fitted_radius(found, key, infos) if radius is None else float(radius)
    sides = [_side(rows, int(end)) for end in ends]
    mapping = matching.map_slice(
        *(side.embedding for side in sides),
        *(side.positions for side in sides),
        radius=reach,
        rng=rng_for(random_state, "map_slice"),
    )
    order = (0, 1) if mapping.source_is_smaller else (1, 0)
    tables = [found.table(infos[at].table) for at in order]
    own, other = (sides[at].rows for at in order)
    spot, partner = (np.asarray(table.obs_names(), dtype=object) for table in tables)
    partners = np.where(mapping.partner >= 0, partner[other[mapping.partner]], "")
    frame = pd.DataFrame(
        {"partner": partners, "cosine": mapping.cosine, "passed": mapping.passed}, index=spot[own]
    )
    smaller, larger = (infos[at] for at in order)
    record = {"slice": smaller.name, "onto": larger.name, "onto_table": larger.table, "key": key}
    record |= {"radius": reach, "threshold": mapping.threshold}
    record |= {"n_mapped": int((mapping.partner >= 0).sum()), "n_passed": int(mapping.passed.sum())}
    n_spots = tables[0].n_spots
    columns = np.full(n_spots, "", object), np.full(n_spots, np.nan, np.float32), np.zeros(n_spots, bool)
    with ResultWriter(found, overwrite=overwrite) as writer:
        for name, column, values in zip(names, columns, frame.columns, strict=True):
            column[own] = frame[values]
            writer.obs(name, {smaller.table: column})
        writer.uns(written, record, tables=[smaller.table])
    return SliceMapping(smaller.name, larger.name, frame, reach, mapping.threshold)


@dataclass(frozen=True)
class _Side:
    """Spots of a slice that the fit has kept: rows of its table, embedding and positions."""

    rows: np.ndarray
    embedding: np.ndarray
    positions: np.ndarray


def _side(both: tuple[StoredRows, StoredRows], end: int) -> _Side:
    info = both[0].atlas.slices[end]
    cells, places = (replace(rows, tables=(rows.atlas.table(info.table),)) for rows in both)
    wanted = np.flatnonzero(cells.slice_codes == end)
    embedding, positions = cells.take(wanted), places.take(wanted)
    kept = np.isfinite(embedding).all(axis=1) & np.isfinite(positions).all(axis=1)
    if not kept.any():
        raise _unfitted(info, cells)
    return _Side(wanted[kept], embedding[kept], positions[kept])


def _refuse_unfitted(infos: Sequence[SliceInfo], both: tuple[StoredRows, StoredRows]) -> None:
    for info in infos:
        for rows in both:
            if info.table not in rows.names:
                raise _unfitted(info, rows)


def _unfitted(info: SliceInfo, rows: StoredRows) -> BadInput:
    fit = f"atlasnmf fit spatialfuser {rows.atlas.path or 'STORE'}"
    return BadInput(
        f"slice {info.name!r} has no spot with finite obsm[{rows.key!r}]; fit both slices together: {fit}"
    )


def _fitted_radius(atlas: Atlas, key: str, infos: Sequence[SliceInfo]) -> float:
    """Return how far apart spots of two slices could match in the fit, as the tables of both have it."""
    pair = {info.name for info in infos}
    known: list[float | None] = []
    for table in {info.table: atlas.table(info.table) for info in infos}.values():
        links = table.uns(key).get("links", {}) if key in table.keys("uns") else {}
        ends = {frozenset((link["source"], link["target"])): link for link in links.values()}
        known.append(ends.get(frozenset(pair), {}).get("max_distance"))
    if known[0] is None or len(set(known)) > 1:
        raise BadInput(
            f"uns[{key!r}] has no reach for slices {' and '.join(sorted(pair))}, which the fit has not laid "
            "onto each other; give a radius, or fit the two with --max-distance"
        )
    return float(known[0])
