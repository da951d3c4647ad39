"""Trajectories through an embedding: groups that touch, and pseudotime from a root, carried to every spot."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.nearest import Nearest, need
from atlasnmf.analysis.spots import SpotLabels, StoredRows, stored_labels, stored_rows
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.seeds import seed_for
from atlasnmf.store.names import no_such
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import scipy.sparse
    from anndata import AnnData

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["Trajectory", "diffusion_pseudotime", "group_connectivities", "trajectory"]

_PURPOSE = "tl.trajectory"
#: Sampled neighbours whose pseudotime a spot takes the mean of.
_N_CARRIERS = 10


@dataclass(frozen=True)
class Trajectory:
    """Where spots lie between a root and the far end, and which groups touch.

    Parameters
    ----------
    pseudotime
        float32, shape (n_spots of the atlas,), 0 at the root and 1 at the farthest spot of the sample; NaN
        where there is no embedding or no way from the root.
    groups
        Names of the groups.
    connectivities
        How much more edges join two groups than by chance, at most 1, float64, shape (n_groups, n_groups).
    mean_pseudotime
        Of each group's spots, shape (n_groups,).
    n_sample
        Spots the trajectory was found on.
    """

    pseudotime: np.ndarray = field(repr=False)
    groups: tuple[str, ...]
    connectivities: np.ndarray
    mean_pseudotime: np.ndarray
    n_sample: int


def group_connectivities(graph: scipy.sparse.csr_matrix, codes: np.ndarray, n_groups: int) -> np.ndarray:
    """Measure how strongly groups are joined in a graph of neighbours, as PAGA does.

    ``c_ij = e_ij / ((e_i n_j + e_j n_i) / (n - 1))``, at most 1, with e_ij the edges between two groups
    counted from both ends, e_i the edges from group i, n_i its size.

    Parameters
    ----------
    graph
        Edges of n spots, directed, whatever their weights.
    codes
        Group of each spot, shape (n,), each from 0 on.
    n_groups
        Groups.

    Returns
    -------
    numpy.ndarray
        float64, shape (n_groups, n_groups), symmetric, zero on the diagonal.

    Notes
    -----
    The statistic of scanpy's ``paga`` (model v1.2), which counts the edges through igraph, a package under
    the GPL that this one does without. Wolf et al., Genome Biol. 20 (2019).
    """
    edges = graph.tocoo()
    between = np.zeros((n_groups, n_groups))
    np.add.at(between, (codes[edges.row], codes[edges.col]), 1.0)
    sizes, from_ = np.bincount(codes, minlength=n_groups), between.sum(axis=1)
    joined = between + between.T
    np.fill_diagonal(joined, 0)
    expected = (np.outer(from_, sizes) + np.outer(sizes, from_)) / max(len(codes) - 1, 1)
    ratio = np.divide(joined, expected, out=np.ones_like(joined), where=expected > 0)
    return np.where(joined > 0, np.minimum(ratio, 1.0), 0.0)


def trajectory(
    atlas: AtlasLike,
    key: str = "X_inspire",
    *,
    groups: str = "domains",
    root: str | None = None,
    n_sample: int = 20_000,
    n_neighbors: int = 15,
    n_components: int = 10,
    kernel: str = "umap",
    key_added: str = "trajectory",
    overwrite: bool = False,
    random_state: int = 0,
) -> Trajectory:
    """Order spots from a root by diffusion pseudotime, and measure which groups touch (PAGA).

    The graph's weights and the diffusion map are scanpy's, on a sample drawn evenly over groups; every other
    spot takes the mean of its nearest in the sample, weighed by the inverse of the distance.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    key
        obsm key of an embedding.
    groups
        obs column of domains or labels: nodes of the graph of groups, and strata of the sample.
    root
        Group the trajectory begins in, at the spot of it that is most typical; when not given, the spot at
        the end of the first diffusion component.
    n_sample
        Spots of the sample at most.
    n_neighbors
        Neighbours of a spot.
    n_components
        Diffusion components.
    kernel
        How scanpy weighs edges: ``"umap"`` or ``"gauss"``, the one of the first diffusion pseudotime.
    key_added
        Start of the obs column ``<key_added>_pseudotime``, and the uns entry: ``groups``, ``connectivities``,
        ``mean_pseudotime``, ``order`` (the groups by it).
    overwrite
        Replace an older one.
    random_state
        Seed of the sample and of the diffusion map.

    Returns
    -------
    Trajectory

    Raises
    ------
    BadInput
        There is no such embedding or column, or too few spots have both.
    BadOption
        There is no such root, the names exist, or scanpy is not installed.

    Notes
    -----
    20,000 spots take about 20 s; carrying over takes one pass over the embedding. Haghverdi et al., Nat.
    Methods 13 (2016); Wolf et al., Genome Biol. 20 (2019).

    Examples
    --------
    >>> import atlasnmf as an
    >>> found = an.tl.trajectory("embryo.zarr", "X_inspire", groups="domains", root="0")
    >>> found.groups, found.pseudotime.shape
    (('0', '1', '2', '3'), (600,))
    """
    if min(n_neighbors, n_components, n_sample) < 3:
        raise BadOption("a trajectory needs at least 3 neighbours, components and spots")
    if kernel not in ("umap", "gauss"):
        raise BadOption(f"no kernel {kernel!r} for a trajectory; choose umap or gauss")
    rows = stored_rows(atlas, key)
    column = f"{key_added}_pseudotime"
    refuse_existing(rows.atlas, obs=[column], uns=[key_added], overwrite=overwrite)
    labels = stored_labels(rows.atlas, groups, rows.tables)
    if root is not None and root not in labels.names:
        raise BadOption(no_such("group", root, labels.names, f"obs[{groups!r}] of {rows.atlas.name}"))
    need("scanpy", _PURPOSE)
    drawn = rows.sample(
        n_sample, labels.codes, random_state=random_state, where="trajectory", among=rows.finite()
    )
    if len(drawn) <= n_neighbors:
        raise BadInput(
            f"{len(drawn)} spots have obsm[{key!r}] and obs[{groups!r}], too few for {n_neighbors} neighbours"
        )
    points, codes = rows.take(drawn), labels.codes[drawn]
    first = None if root is None else labels.names.index(root)
    sampled, graph = _pseudotime(points, codes, first, n_neighbors, n_components, kernel, random_state)
    everywhere = np.full(rows.atlas.n_spots, np.nan, np.float32)
    everywhere[rows.spots] = _carried(rows, points, sampled)
    found = Trajectory(
        everywhere,
        labels.names,
        group_connectivities(graph, codes, len(labels.names)),
        _means(everywhere[rows.spots], labels),
        len(drawn),
    )
    _write(
        rows,
        found,
        key_added,
        {"key": key, "groups_key": groups, "root": root or "extreme", "kernel": kernel},
        overwrite,
    )
    return found


def _pseudotime(
    points: np.ndarray,
    codes: np.ndarray,
    root: int | None,
    n_neighbors: int,
    n_components: int,
    kernel: str,
    random_state: int,
) -> tuple[np.ndarray, Any]:
    """Run scanpy on the sample; return pseudotime and the graph of neighbours."""
    import anndata
    import pandas as pd

    sc = need("scanpy", _PURPOSE)
    seed = seed_for(random_state, "trajectory", "scanpy") % 2**32
    index = pd.RangeIndex(len(points)).astype(str)
    adata = anndata.AnnData(obs=pd.DataFrame(index=index), obsm={"X": points})
    with warnings.catch_warnings():
        # what scanpy and umap say of themselves
        warnings.simplefilter("ignore")
        near = _Neighbours(n_neighbors)
        sc.pp.neighbors(adata, use_rep="X", method=kernel, transformer=near, random_state=seed)
        sc.tl.diffmap(adata, n_comps=n_components + 1, random_state=seed)
    time = diffusion_pseudotime(
        adata.obsm["X_diffmap"],
        adata.uns["diffmap_evals"],
        _root(adata, codes, root),
        adata.obsp["connectivities"],
    )
    return time, adata.obsp["distances"]


class _Neighbours:
    """Nearest neighbours for scanpy: for large samples it asks pynndescent, of which it cannot read new ones.

    Parameters
    ----------
    n_neighbors
        Of each row, itself counted, as scanpy does.
    """

    def __init__(self, n_neighbors: int) -> None:
        self.n_neighbors = n_neighbors

    def get_params(self, deep: bool = True) -> dict[str, int]:
        """Return the number of neighbours."""
        return {"n_neighbors": self.n_neighbors}

    def fit_transform(self, rows: np.ndarray) -> scipy.sparse.csr_matrix:
        """Return distances to the nearest others, as many in every row, the nearest first."""
        import scipy.sparse

        distances, found = Nearest(rows, _PURPOSE).search(rows, self.n_neighbors + 1)
        short = np.flatnonzero((found < 0).any(axis=1))
        if len(short):
            distances[short], found[short] = Nearest(rows, _PURPOSE, exact=True).search(
                rows[short], self.n_neighbors + 1
            )
        # a row at the same place may come before the row itself
        itself = found == np.arange(len(rows))[:, None]
        order = np.argsort(itself, axis=1, kind="stable")[:, : self.n_neighbors - 1]
        columns = np.take_along_axis(found, order, axis=1).ravel()
        values = np.take_along_axis(distances, order, axis=1).astype(np.float64).ravel()
        starts = np.arange(0, len(columns) + 1, self.n_neighbors - 1)
        return scipy.sparse.csr_matrix((values, columns, starts), shape=(len(rows),) * 2)


def diffusion_pseudotime(
    components: np.ndarray, eigenvalues: np.ndarray, root: int, graph: scipy.sparse.csr_matrix
) -> np.ndarray:
    """Measure how far spots are from a root along a diffusion map.

    ``t_i^2 = sum_j (l_j / (1 - l_j))^2 (psi_ij - psi_rj)^2`` over the components but the stationary one of
    each connected part.

    Parameters
    ----------
    components
        psi, shape (n, n_components), the stationary ones first.
    eigenvalues
        l, shape (n_components,).
    root
        The root.
    graph
        Edges between the spots, to tell connected parts.

    Returns
    -------
    numpy.ndarray
        float64, shape (n,), the largest 1; NaN where no edges lead to.

    Notes
    -----
    scanpy's ``dpt`` takes every component with an eigenvalue above 0.9994 for a stationary one, and the
    leading one of a long continuous tissue comes above it from some hundred spots on: hence this sum on
    scanpy's diffusion map. Haghverdi et al., Nat. Methods 13 (2016), eq. 6.
    """
    from scipy.sparse.csgraph import connected_components

    n_parts, part = connected_components(graph, directed=False)
    values = np.asarray(eigenvalues, np.float64)[n_parts:]
    weights = values / np.maximum(1 - values, 1e-9)
    steps = (np.asarray(components, np.float64)[:, n_parts:] - components[root, n_parts:]) * weights
    time = np.where(part == part[root], np.sqrt((steps**2).sum(axis=1)), np.nan)
    return time / max(float(np.nanmax(time)), 1e-300)


def _root(adata: AnnData, codes: np.ndarray, root: int | None) -> int:
    components = adata.obsm["X_diffmap"]
    if root is None:
        return int(np.abs(components[:, 1] - np.median(components[:, 1])).argmax())
    own = np.flatnonzero(codes == root)
    middle = np.median(adata.obsm["X"][own], axis=0)
    return int(own[((adata.obsm["X"][own] - middle) ** 2).sum(axis=1).argmin()])


def _carried(rows: StoredRows, points: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    reached = np.isfinite(sampled)
    near, time = Nearest(points[reached], _PURPOSE), sampled[reached]
    out = np.full(rows.n_spots, np.nan, np.float32)
    for run, values in rows.runs():
        finite = np.isfinite(values).all(axis=1)
        if not finite.any():
            continue
        distances, found = near.search(values[finite], min(_N_CARRIERS, len(time)))
        weights = np.where(found >= 0, 1 / np.maximum(distances.astype(np.float64), 1e-9), 0)
        out[run][finite] = (weights * time[found]).sum(axis=1) / weights.sum(axis=1)
    return out


def _means(time: np.ndarray, labels: SpotLabels) -> np.ndarray:
    known = np.isfinite(time) & (labels.codes >= 0)
    n_groups = len(labels.names)
    sums = np.bincount(labels.codes[known], weights=time[known], minlength=n_groups)
    counts = np.bincount(labels.codes[known], minlength=n_groups)
    return np.divide(sums, counts, out=np.full(n_groups, np.nan), where=counts > 0)


def _write(
    rows: StoredRows, found: Trajectory, key_added: str, record: dict[str, Any], overwrite: bool
) -> None:
    order = np.argsort(found.mean_pseudotime)
    record = record | {
        "groups": list(found.groups),
        "connectivities": found.connectivities,
        "mean_pseudotime": found.mean_pseudotime,
        "order": [found.groups[at] for at in order],
        "n_sample": found.n_sample,
    }
    with ResultWriter(rows.atlas, overwrite=overwrite) as writer:
        writer.obs(f"{key_added}_pseudotime", found.pseudotime, tables=rows.names)
        writer.uns(key_added, record, tables=rows.names)
