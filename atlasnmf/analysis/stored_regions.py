"""Which regions the patterns in a store are, and which patterns tell a region."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.region_prediction import RegionPrediction
from atlasnmf.analysis.region_prediction import predict_region as predict
from atlasnmf.analysis.region_unions import RegionLinks, search_unions
from atlasnmf.analysis.region_unions import link_regions as link
from atlasnmf.analysis.regions import Regions, regions_of
from atlasnmf.analysis.stored_patterns import StoredPatterns, stored_patterns
from atlasnmf.errors import BadOption
from atlasnmf.store.ontology import Ontology, read_ontology
from atlasnmf.store.plain import columns_of
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    from atlasnmf.store.atlas import AtlasLike

__all__ = ["link_regions", "predict_region", "stored_regions"]


def stored_regions(
    read: StoredPatterns,
    region_key: str = "region",
    *,
    ontology: Ontology | Path | str | None = None,
    n_neighbors: int = 6,
) -> Regions:
    """Return the regions of the spots with patterns, and those above where ``uns`` has an ontology.

    Parameters
    ----------
    read
        From :func:`atlasnmf.analysis.stored_patterns.stored_patterns`.
    region_key
        obs column of each spot's region.
    ontology
        Regions above them, or the CSV table of these; ``uns["ontology"]`` when not given.
    n_neighbors
        Of spots that are no voxels, for deciding which regions touch.
    """
    labels = read.obs_column(region_key)
    if isinstance(ontology, Path | str):
        ontology = read_ontology(ontology)
    if ontology is None:
        tree = next((t.uns("ontology") for t in read.tables if "ontology" in t.keys("uns")), None)
        ontology = None if tree is None else Ontology.of(tree)
    return regions_of(labels, read.graph(n_neighbors=n_neighbors), ontology=ontology)


def link_regions(
    atlas: AtlasLike,
    key: str = "stanmf",
    *,
    region_key: str = "region",
    ontology: Ontology | Path | str | None = None,
    max_size: int = 3,
    n_top: int = 10,
    min_spots: int = 1,
    search_to: int = 0,
    n_neighbors: int = 6,
    key_added: str | None = None,
    overwrite: bool = False,
) -> RegionLinks:
    """Compare patterns with every region, touching pair and connected triple of regions.

    Parameters
    ----------
    atlas, key, overwrite
        As in :func:`atlasnmf.analysis.reading.morans_i`.
    region_key
        obs column with the region of each spot.
    ontology
        The regions above these, or a CSV table of them (see :func:`atlasnmf.store.ontology.read_ontology`);
        ``uns["ontology"]`` where there is one, when not given.
    max_size, n_top, min_spots
        See :func:`atlasnmf.analysis.region_unions.link_regions`.
    search_to
        Also search larger unions, up to this many regions (0: do not); the best are written as ``searched``.
    n_neighbors
        Of spots that are no voxels, for deciding which regions touch.
    key_added
        uns key to write, ``<key>_regions`` by default: ``regions``, ``sizes``, ``pearson`` and ``dice``
        (R, K), ``n_unions``, and the table ``unions``.

    Returns
    -------
    RegionLinks
        All of it.

    Raises
    ------
    BadInput
        There is no such result or column, or no spot has a region.
    BadOption
        The key exists, or an option has no meaning.

    Examples
    --------
    >>> import atlasnmf as an
    >>> links = an.tl.link_regions("brain.zarr", "stanmf")
    >>> links.best()[["pattern", "regions"]].shape
    (4, 2)
    """
    read = stored_patterns(atlas, key)
    written = key_added or f"{key}_regions"
    refuse_existing(read.atlas, uns=[written], overwrite=overwrite)
    if search_to and search_to <= max_size:
        raise BadOption(f"unions of up to {max_size} regions are all looked at; search beyond that, or not")
    regions = stored_regions(read, region_key, ontology=ontology, n_neighbors=n_neighbors)
    links = link(read.patterns, regions, max_size=max_size, n_top=n_top, min_spots=min_spots)
    record = {
        "regions": list(links.regions),
        "sizes": links.sizes,
        "pearson": links.pearson,
        "dice": links.dice,
        "n_unions": np.array(links.n_unions),
        "region_key": region_key,
        "unions": columns_of(links.unions),
    }
    if search_to:
        found = search_unions(read.patterns, regions, max_size=search_to, min_spots=min_spots)
        record["searched"] = columns_of(found)
    with ResultWriter(read.atlas, overwrite=overwrite) as writer:
        writer.uns(written, record, tables=read.names)
    return links


def predict_region(
    atlas: AtlasLike,
    region: str | list[str],
    key: str = "stanmf",
    *,
    region_key: str = "region",
    ontology: Ontology | Path | str | None = None,
    **options: Any,
) -> RegionPrediction:
    """Predict a region from a few patterns, against patterns taken at random; writes nothing.

    Parameters
    ----------
    atlas, key
        As in :func:`atlasnmf.analysis.reading.morans_i`.
    region
        Name of a region of any level, or several that make a union.
    region_key, ontology
        As in :func:`link_regions`.
    **options
        See :func:`atlasnmf.analysis.region_prediction.predict_region`.

    Examples
    --------
    >>> import atlasnmf as an
    >>> found = an.tl.predict_region("brain.zarr", "D2r3", "stanmf", n_random=20)
    >>> len(found.patterns), bool(found.auc > 0.9)
    (3, True)
    """
    read = stored_patterns(atlas, key)
    inside = stored_regions(read, region_key, ontology=ontology).inside(region)
    return predict(read.patterns, inside, **options)
