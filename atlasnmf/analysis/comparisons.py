"""What else could have found patterns: principal components, and clusters of components or of patterns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput
from atlasnmf.seeds import rng_for, seed_for

__all__ = ["PcaPatterns", "cluster_patterns", "comparison_patterns", "pca_patterns"]

_CHUNK_ROWS = 65_536
#: Spots that hierarchical clustering joins: it takes 8 bytes for each two of them.
_MOST_JOINED = 10_000

Blocks = Callable[[], Iterator[np.ndarray]]


@dataclass
class PcaPatterns:
    """Principal components of values read in runs of rows.

    Parameters
    ----------
    means
        Mean of each gene, float64, shape (G,).
    components
        Shape (G, K), orthonormal columns, the largest variance first; each oriented so that scores lean to
        the positive side, as patterns do.
    variances
        Of the scores, float64, shape (K,).
    """

    means: np.ndarray
    components: np.ndarray
    variances: np.ndarray

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Return the scores of spots, float32, shape (n, K)."""
        return ((np.asarray(rows, np.float64) - self.means) @ self.components).astype(np.float32)


def pca_patterns(blocks: Blocks, n_components: int) -> PcaPatterns:
    """Find principal components from the genes' covariance, summed over runs of spots.

    Parameters
    ----------
    blocks
        Yields the values anew at every call, arrays of shape (n_block, G).
    n_components
        K, at most G.

    Raises
    ------
    BadInput
        There are fewer genes or spots than components.

    Notes
    -----
    Two passes; O(n G^2 + G^3) and 16 G^2 bytes, so for panels and for thousands of genes.
    """
    from scipy.linalg import eigh

    n_spots, total, gram, shift = 0, np.zeros(0), np.zeros((0, 0)), np.zeros(0)
    for block in blocks():
        rows = np.asarray(block, np.float64)
        if not n_spots:
            # sums about a point near the mean keep the difference below accurate
            shift = rows.mean(axis=0)
            total, gram = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        rows = rows - shift
        n_spots += len(rows)
        total += rows.sum(axis=0)
        gram += rows.T @ rows
    if n_components > min(len(total), n_spots - 1):
        raise BadInput(
            f"{n_spots} spots of {len(total)} genes have fewer than {n_components} components; ask for fewer"
        )
    covariance = (gram - np.outer(total, total) / n_spots) / (n_spots - 1)
    first = len(total) - n_components
    variances, vectors = eigh(covariance, subset_by_index=(first, len(total) - 1))
    found = PcaPatterns(total / n_spots + shift, vectors[:, ::-1], variances[::-1])
    lean = np.zeros(n_components)
    for block in blocks():
        lean += (found.scores(block).astype(np.float64) ** 3).sum(axis=0)
    found.components = found.components * np.where(lean < 0, -1.0, 1.0)
    return found


def cluster_patterns(
    scores: np.ndarray, n_clusters: int, *, method: str = "kmeans", random_state: int = 0
) -> np.ndarray:
    """Cut spots into groups and return the groups as patterns of zeros and ones.

    Parameters
    ----------
    scores
        Shape (n, p).
    n_clusters
        Groups.
    method
        ``"kmeans"``, or ``"hierarchical"``: Ward's, joined over at most 10,000 spots taken at random; the
        others go to the group with the nearest mean.
    random_state
        Seed.

    Returns
    -------
    numpy.ndarray
        float32, shape (n, n_clusters), rows sum to 1; rows that are not finite are NaN.
    """
    scores = np.asarray(scores, np.float64)
    finite = np.flatnonzero(np.isfinite(scores).all(axis=1))
    if len(finite) < n_clusters:
        raise BadInput(f"{len(finite)} spots are too few for {n_clusters} groups; ask for fewer")
    values = scores[finite]
    if method == "kmeans":
        from sklearn.cluster import KMeans

        seed = seed_for(random_state, "comparison", "kmeans") % 2**32
        labels = KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(values)
    else:
        labels = _ward(values, n_clusters, random_state)
    out = np.full((len(scores), n_clusters), np.nan, np.float32)
    out[finite] = labels[:, None] == np.arange(n_clusters)
    return out


def _ward(values: np.ndarray, n_clusters: int, random_state: int) -> np.ndarray:
    from scipy.cluster.hierarchy import fcluster, ward

    rng = rng_for(random_state, "comparison", "ward")
    n_joined = min(len(values), _MOST_JOINED)
    joined = np.sort(rng.choice(len(values), n_joined, replace=False))
    groups = fcluster(ward(values[joined]), n_clusters, criterion="maxclust") - 1
    means = np.stack([values[joined[groups == group]].mean(axis=0) for group in range(groups.max() + 1)])
    if n_joined == len(values):
        return groups
    halves = (means**2).sum(axis=1) / 2
    labels = np.empty(len(values), np.int64)
    for start in range(0, len(values), _CHUNK_ROWS):
        labels[start : start + _CHUNK_ROWS] = (values[start : start + _CHUNK_ROWS] @ means.T - halves).argmax(
            axis=1
        )
    labels[joined] = groups
    return labels


def comparison_patterns(
    values: np.ndarray | Blocks, patterns: np.ndarray, *, random_state: int = 0
) -> dict[str, np.ndarray]:
    """Find as many patterns by the usual other ways.

    Parameters
    ----------
    values
        Shape (n, G), or what yields them anew in runs of rows at every call.
    patterns
        The patterns to compare with, shape (n, K).
    random_state
        Seed.

    Returns
    -------
    dict
        ``pca``, ``pca_kmeans``, ``pca_hierarchical`` and ``stanmf_hierarchical``: float32, shape (n, K).

    References
    ----------
    Cahill et al., PNAS (2024), Fig. 3C.

    Examples
    --------
    >>> values = np.random.default_rng(0).gamma(1.0, size=(50, 6))
    >>> {name: found.shape for name, found in comparison_patterns(values, values[:, :2]).items()}
    {'pca': (50, 2), 'pca_kmeans': (50, 2), 'pca_hierarchical': (50, 2), 'stanmf_hierarchical': (50, 2)}
    """
    if callable(values):
        blocks: Blocks = values
    else:
        array = np.asarray(values)

        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, len(array), _CHUNK_ROWS):
                yield array[start : start + _CHUNK_ROWS]

    n_patterns = np.shape(patterns)[1]
    components = pca_patterns(blocks, n_patterns)
    scores = np.concatenate([components.scores(block) for block in blocks()])
    return {
        "pca": scores,
        "pca_kmeans": cluster_patterns(scores, n_patterns, random_state=random_state),
        "pca_hierarchical": cluster_patterns(
            scores, n_patterns, method="hierarchical", random_state=random_state
        ),
        "stanmf_hierarchical": cluster_patterns(
            np.asarray(patterns), n_patterns, method="hierarchical", random_state=random_state
        ),
    }
