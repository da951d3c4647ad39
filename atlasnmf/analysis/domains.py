"""Spatial domains: groups of spots that lie close in an embedding, named alike in every slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from atlasnmf.analysis.spots import stored_rows
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.seeds import rng_for, seed_for
from atlasnmf.store.results import ResultWriter, refuse_existing
from atlasnmf.store.runs import RUN_SPOTS

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["Method", "assign_domains", "domains"]

Method = Literal["mixture", "leiden"]

#: Leiden's graph of strings takes about 2 kB per spot.
_LEIDEN_SAMPLE = 50_000


class _Grouping(Protocol):
    def predict(self, rows: np.ndarray) -> np.ndarray: ...


def _fit(
    sample: np.ndarray,
    n_domains: int,
    method: Method,
    covariance: str,
    resolution: float | None,
    n_neighbors: int,
    random_state: int,
) -> _Grouping:
    if method == "leiden":
        from atlasnmf.analysis.leiden import fit_communities

        return fit_communities(
            sample, n_domains, resolution=resolution, n_neighbors=n_neighbors, random_state=random_state
        )
    if covariance == "tied":
        from atlasnmf.analysis.mixture import fit_mixture

        return fit_mixture(sample, n_domains, random_state=random_state)
    from sklearn.mixture import GaussianMixture

    if len(sample) < n_domains:
        raise BadInput(f"{len(sample)} spots are too few for {n_domains} domains; ask for fewer domains")
    seed = seed_for(random_state, "domains", covariance) % 2**32
    mixture = GaussianMixture(n_domains, covariance_type=covariance, random_state=seed)
    return mixture.fit(np.asarray(sample, np.float64))


def _check(n_domains: int, method: str, covariance: str) -> None:
    if method not in ("mixture", "leiden"):
        raise BadOption(f"no method {method!r} for domains; choose mixture or leiden")
    if covariance not in ("tied", "full", "diag", "spherical"):
        raise BadOption(f"no covariance {covariance!r}; choose tied, full, diag or spherical")
    if n_domains < 1:
        raise BadOption(f"ask for one domain or more, not {n_domains}")


def _sampled(n_rows: int, n_sample: int, method: str, random_state: int) -> np.ndarray:
    n_sample = min(n_sample, _LEIDEN_SAMPLE) if method == "leiden" else n_sample
    if n_rows <= n_sample:
        return np.arange(n_rows)
    return np.sort(rng_for(random_state, "domains", "sample").choice(n_rows, n_sample, replace=False))


def _predict(grouping: _Grouping, embedding: np.ndarray) -> np.ndarray:
    codes = np.full(len(embedding), -1, np.int32)
    for start in range(0, len(embedding), RUN_SPOTS):
        rows = np.asarray(embedding[start : start + RUN_SPOTS], np.float32)
        finite = np.isfinite(rows).all(axis=1)
        if finite.any():
            codes[start : start + len(rows)][finite] = grouping.predict(rows[finite])
    return codes


def _by_size(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Give groups numbers by falling size, without gaps; missing stays -1."""
    sizes = np.bincount(codes[codes >= 0])
    order = np.argsort(-sizes, kind="stable")
    n_groups = int((sizes > 0).sum())
    place = np.full(len(sizes) + 1, -1, np.int32)
    place[order[:n_groups]] = np.arange(n_groups)
    return place[codes], n_groups


def _group(
    parts: Callable[[], Iterator[np.ndarray]],
    n_rows: int,
    n_domains: int,
    method: Method,
    covariance: str,
    resolution: float | None,
    n_neighbors: int,
    n_sample: int,
    random_state: int,
) -> tuple[np.ndarray, int]:
    """Fit on a sample of the parts, then name the rows of each; the parts are read twice."""
    _check(n_domains, method, covariance)
    wanted = _sampled(n_rows, n_sample, method, random_state)
    samples, start = [], 0
    for part in parts():
        inside = wanted[(wanted >= start) & (wanted < start + len(part))] - start
        rows = np.asarray(part[inside], np.float32)
        samples.append(rows[np.isfinite(rows).all(axis=1)])
        start += len(part)
    sample = np.concatenate(samples)
    if not len(sample):
        raise BadInput("no spot has a finite embedding; check the key or fit the model again")
    grouping = _fit(sample, n_domains, method, covariance, resolution, n_neighbors, random_state)
    return _by_size(np.concatenate([_predict(grouping, part) for part in parts()]))


def assign_domains(
    embedding: np.ndarray,
    *,
    n_domains: int = 16,
    method: Method = "mixture",
    covariance: str = "tied",
    resolution: float | None = None,
    n_neighbors: int = 15,
    n_sample: int = 100_000,
    random_state: int = 0,
) -> np.ndarray:
    """Group the rows of an embedding.

    Parameters
    ----------
    embedding
        Shape (n, p). Rows with a value that is not finite belong to no domain.
    n_domains
        Domains; Leiden comes as near as it can.
    method
        ``"mixture"``, a Gaussian mixture, or ``"leiden"``, communities of the neighbour graph.
    covariance
        Of the mixture: ``"tied"`` (one for all components, the default and by far the fastest), ``"full"``,
        ``"diag"`` or ``"spherical"``.
    resolution
        Of Leiden, in place of a number of domains.
    n_neighbors
        Of Leiden's graph, and voters on spots outside it.
    n_sample
        Rows the groups are fitted to, at most (Leiden: 50,000); all rows are then assigned in chunks.
    random_state
        Seed of the sample and of the fit.

    Returns
    -------
    numpy.ndarray
        int32, shape (n,), 0 the largest domain; -1 for rows left out.

    Raises
    ------
    BadInput
        No finite row, or fewer rows than domains.
    BadOption
        An option without a meaning, or the extra ``analysis`` is not installed.

    Examples
    --------
    >>> rows = np.array([[0.0, 0], [0.1, 0], [0, 0.1], [5, 5], [5.1, 5], [np.nan, 0]])
    >>> assign_domains(rows, n_domains=2).tolist()
    [0, 0, 0, 1, 1, -1]
    """
    embedding = np.asarray(embedding)
    if embedding.ndim != 2:
        raise BadInput(f"an embedding has two dimensions, spots and components; got shape {embedding.shape}")
    codes, _ = _group(
        lambda: iter([embedding]),
        len(embedding),
        n_domains,
        method,
        covariance,
        resolution,
        n_neighbors,
        n_sample,
        random_state,
    )
    return codes


def domains(
    atlas: AtlasLike,
    key: str = "X_inspire",
    *,
    n_domains: int = 16,
    method: Method = "mixture",
    covariance: str = "tied",
    resolution: float | None = None,
    n_neighbors: int = 15,
    n_sample: int = 100_000,
    smooth: int = 0,
    key_added: str = "domains",
    overwrite: bool = False,
    random_state: int = 0,
) -> dict[str, pd.Categorical]:
    """Group the spots of all slices by an embedding and write the groups to ``obs[key_added]``.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or an AnnData or SpatialData in memory (which is changed).
    key
        obsm key of the embedding; tables without it are left out.
    n_domains, method, covariance, resolution, n_neighbors, n_sample, random_state
        As in :func:`assign_domains`.
    smooth
        Then give each spot the commonest domain among itself and this many nearest spots of its slice; 0 for
        not.
    key_added
        obs column to write: categorical, ``"0"`` the largest domain, missing where the embedding is.
    overwrite
        Replace the column where it exists.

    Returns
    -------
    dict
        The column of each table, by name.

    Raises
    ------
    BadInput
        No table has the embedding, or it cannot be grouped.
    BadOption
        The column exists, or an option has no meaning.

    Notes
    -----
    The embedding is read twice, in runs of 65,536 spots; what is held beside is the sample and a few bytes
    a spot. A million spots in 32 dimensions take about 20 s (mixture) or a minute (Leiden) on two cores.

    Examples
    --------
    >>> import anndata, pandas as pd
    >>> rows = np.repeat([[0.0, 0.0], [5.0, 5.0]], [30, 20], axis=0) + np.eye(50, 2)
    >>> names = [f"spot{i}" for i in range(50)]
    >>> adata = anndata.AnnData(np.ones((50, 1)), obs=pd.DataFrame(index=names), obsm={"X_inspire": rows})
    >>> _ = domains(adata, n_domains=2)
    >>> adata.obs["domains"].value_counts().to_dict()
    {'0': 30, '1': 20}
    """
    import pandas as pd

    rows = stored_rows(atlas, key)
    found = rows.atlas
    refuse_existing(found, obs=[key_added], overwrite=overwrite)
    if smooth < 0:
        raise BadOption(f"smooth is a number of neighbours, 0 or more; got {smooth}")
    codes, n_groups = _group(
        lambda: (values for _, values in rows.runs()),
        rows.n_spots,
        n_domains,
        method,
        covariance,
        resolution,
        n_neighbors,
        n_sample,
        random_state,
    )
    if smooth:
        from atlasnmf.analysis.smoothing import smoothed_domains

        codes, n_groups = _by_size(smoothed_domains(rows, codes, smooth))
    everywhere = np.full(found.n_spots, -1, np.int32)
    everywhere[rows.spots] = codes
    column = pd.Categorical.from_codes(everywhere, categories=[str(group) for group in range(n_groups)])
    with ResultWriter(found, overwrite=overwrite) as writer:
        writer.obs(key_added, column, tables=rows.names)
    return {t.name: column[spots] for t, spots in found.table_spots() if t.name in rows.names}
