"""Gaussian mixture with one covariance for all components, fast on a hundred thousand spots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.seeds import seed_for

__all__ = ["TiedMixture", "fit_mixture"]

#: Added to the variances, as scikit-learn does, so that a constant dimension does not stop the fit.
_RIDGE = 1e-6
#: Rows that the starts of a fit go over together, about.
_ROWS_STARTED = 60_000
#: Rows whose shares of the components are held together at most, and shares.
_MOST_ROWS, _MOST_SHARES = 1 << 14, 1 << 22


@dataclass(frozen=True)
class TiedMixture:
    """A fitted mixture.

    Parameters
    ----------
    means
        float64, shape (K, p).
    covariance
        Of every component, float64, shape (p, p).
    weights
        Shares of the components, float64, shape (K,).
    log_likelihood
        Mean per row at the end of the fit.
    n_iter
        Steps of expectation and maximisation taken.
    """

    means: np.ndarray
    covariance: np.ndarray
    weights: np.ndarray
    log_likelihood: float
    n_iter: int

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the most probable component of each row, int32, shape (n,).

        With one covariance the quadratic term is the same for all components: n p K multiply-adds.
        """
        slope, offset = _discriminants(self.means, self.covariance, self.weights)
        found = np.empty(len(rows), np.int32)
        for start, block in _blocks(np.asarray(rows), len(self.means)):
            scores = np.asarray(block, np.float64) @ slope
            scores += offset
            found[start : start + len(block)] = scores.argmax(axis=1)
        return found


def _discriminants(
    means: np.ndarray, covariance: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    slope = np.linalg.solve(covariance, means.T)
    with np.errstate(divide="ignore"):
        return slope, np.log(weights) - 0.5 * np.einsum("kp,pk->k", means, slope)


def _maximise(
    mass: np.ndarray, sums: np.ndarray, gram: np.ndarray, n_rows: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means, covariance and weights from the mass of each component and the sum of its shares of the rows.

    The scatter within components is the total one less that of the means, and the total never changes:
    no pass over rows by component.
    """
    mass = mass + 10 * np.finfo(np.float64).eps
    means = sums / mass[:, None]
    covariance = (gram - (mass[:, None] * means).T @ means) / n_rows
    covariance[np.diag_indices_from(covariance)] += _RIDGE
    return means, covariance, mass / mass.sum()


def _expect(
    rows: np.ndarray,
    half_norm: float,
    means: np.ndarray,
    covariance: np.ndarray,
    weights: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the mass of each component, the sum of its shares of the rows, and the mean log-likelihood."""
    slope, offset = _discriminants(means, covariance, weights)
    mass, sums, likelihood = np.zeros(len(means)), np.zeros_like(means), 0.0
    for _, block in _blocks(rows, len(means)):
        scores = block @ slope
        scores += offset
        top = scores.max(axis=1, keepdims=True)
        np.subtract(scores, top, out=scores)
        np.exp(scores, out=scores)
        total = scores.sum(axis=1, keepdims=True)
        scores /= total
        mass += scores.sum(axis=0)
        sums += scores.T @ block
        likelihood += float((top + np.log(total)).sum())
    log_det = np.linalg.slogdet(covariance)[1]
    constant = -0.5 * (rows.shape[1] * np.log(2 * np.pi) + log_det)
    return mass, sums, likelihood / len(rows) - half_norm + float(constant)


def _of_groups(rows: np.ndarray, groups: np.ndarray, n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the size of each group and the sum of its rows."""
    sums = np.zeros((n_components, rows.shape[1]))
    for start, block in _blocks(rows, n_components):
        shares = np.zeros((len(block), n_components))
        shares[np.arange(len(block)), groups[start : start + len(block)]] = 1.0
        sums += shares.T @ block
    return np.bincount(groups, minlength=n_components).astype(np.float64), sums


def _blocks(rows: np.ndarray, n_components: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield runs of rows whose shares of all components can be held, with the first row of each."""
    step = max(min(_MOST_ROWS, _MOST_SHARES // n_components), 1)
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step]


def fit_mixture(
    rows: np.ndarray,
    n_components: int,
    *,
    random_state: int = 0,
    n_init: int | None = None,
    max_iter: int = 300,
    tol: float = 1e-4,
) -> TiedMixture:
    """Fit a mixture of Gaussians that share one covariance, by expectation and maximisation from k-means.

    Parameters
    ----------
    rows
        Shape (n, p), finite.
    n_components
        Components K.
    random_state
        Seed of the k-means starts.
    n_init
        Starts; the most likely fit is kept. When not given three, and up to twenty where rows are few: there
        a start is quick, and one that ends in a poor optimum changes most.
    max_iter, tol
        Steps at most, and the gain in mean log-likelihood at which to stop.

    Raises
    ------
    BadInput
        Fewer rows than components, or a value that is not finite.
    BadOption
        ``n_components`` below one.

    Notes
    -----
    The model of scikit-learn's ``GaussianMixture(covariance_type="tied")`` and of mclust's EEE, at
    O(n p K) a step instead of O(n p^2 K), because the total scatter never changes and one covariance makes
    the log-ratios of the components linear in the data. Shares are held for some rows at a time: 32 MB
    beside the rows, however many components. Dempster, Laird and Rubin, JRSS B 39 (1977).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = np.repeat([[0.0, 0.0], [5.0, 5.0]], 50, axis=0) + rng.normal(size=(100, 2))
    >>> groups = fit_mixture(rows, 2).predict(rows)
    >>> len(set(groups[:50])), len(set(groups[50:])), bool(groups[0] != groups[-1])
    (1, 1, True)
    """
    rows = np.asarray(rows, np.float64)
    if n_components < 1:
        raise BadOption(f"a mixture needs at least one component, got {n_components}")
    if len(rows) < n_components:
        raise BadInput(f"{len(rows)} spots are too few for {n_components} domains; ask for fewer domains")
    if not np.isfinite(rows).all():
        raise BadInput("the embedding has values that are not finite; leave those spots out")
    # Centred rows keep the difference of scatters in _maximise accurate.
    centre = rows.mean(axis=0)
    rows = rows - centre
    gram = rows.T @ rows
    if n_init is None:
        n_init = int(np.clip(_ROWS_STARTED // len(rows), 3, 20))
    fits = [
        _one_start(rows, gram, n_components, seed_for(random_state, "mixture", start), max_iter, tol)
        for start in range(n_init)
    ]
    best = max(fits, key=lambda fit: fit.log_likelihood)
    return TiedMixture(best.means + centre, best.covariance, best.weights, best.log_likelihood, best.n_iter)


def _one_start(
    rows: np.ndarray, gram: np.ndarray, n_components: int, seed: int, max_iter: int, tol: float
) -> TiedMixture:
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # fewer distinct points than clusters: the mixture copes with empty components
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(n_components, n_init=1, random_state=seed % 2**32).fit(rows).labels_
    mass, sums = _of_groups(rows, labels, n_components)
    before, step = -np.inf, 0
    while step < max_iter:
        step += 1
        means, covariance, weights = _maximise(mass, sums, gram, len(rows))
        # The mean of x' C^-1 x needs the total scatter alone.
        half_norm = 0.5 * float(np.trace(np.linalg.solve(covariance, gram))) / len(rows)
        mass, sums, now = _expect(rows, half_norm, means, covariance, weights)
        if abs(now - before) < tol:
            break
        before = now
    return TiedMixture(means, covariance, weights, now, step)
