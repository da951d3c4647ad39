"""A pass of SIID against the plain formulas on dense arrays, and the loss it lowers, in float64."""

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.special

from atlasnmf.models.siid import training as siid
from atlasnmf.models.siid.method import build
from atlasnmf.models.siid.params import Params

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "siid"))
from small_pairs import small_pair


@pytest.fixture(autouse=True)
def double(monkeypatch):
    monkeypatch.setattr(siid, "_REAL", np.float64)


def gamma_of(pair):
    gamma = np.zeros((pair.n_fine, len(pair.coarse)))
    for column in range(pair.spots.shape[1]):
        linked = pair.spots[:, column] >= 0
        gamma[np.flatnonzero(linked), pair.spots[linked, column]] += pair.weights[linked, column]
    return gamma


class Dense:
    """N, P, M, Q and phi of the paper as dense arrays, from a state."""

    def __init__(self, pair, state, lane=0):
        n, h = pair.n_fine, state.n_factors
        self.q = state.shared.loadings[lane, :, :h].T.copy()
        p = state.factors[:n, lane, :h] * state.shared.scale[lane, :h]
        mass = p.sum(1)
        self.p = p / mass[:, None]
        self.n, self.m = state.depths[:n, lane] * mass, state.shares[:n, lane] * mass
        self.phi, self.gamma = state.shared.scaling[lane].copy(), gamma_of(pair)
        self.size = None if state.shared.size is None else state.shared.size[lane]

    def means(self):
        t = self.gamma.T @ (self.m[:, None] * self.p)
        return self.n[:, None] * self.p @ self.q, (t @ self.q) * self.phi

    def loss(self, pair, measured):
        """PoiLoss(A_X; diag(N) P Q_X) + PoiLoss(A_V; M'P Q diag(phi)), over the spots that have cells."""
        fine, coarse = self.means()
        n_genes = self.q.shape[1]
        x, v = pair.fine[:, :n_genes][:, measured], pair.coarse[:, :n_genes]
        linked = coarse.sum(1) > 0
        fine, coarse, v = fine[:, measured], coarse[linked], v[linked]
        own = (fine - scipy.special.xlogy(x, fine)).sum()
        if self.size is None:
            return own + (coarse - scipy.special.xlogy(v, coarse)).sum()
        s, gammaln = self.size, scipy.special.gammaln
        likelihood = (
            gammaln(v + s) - gammaln(s) + s * np.log(s / (s + coarse)) + v * np.log(coarse / (s + coarse))
        )
        return own - likelihood.sum()


def plain_pass(pair, dense, measured):
    """One pass by the formulas: expectations of both platforms, then local and shared updates."""
    n_genes = dense.q.shape[1]
    x, v = pair.fine[:, :n_genes] * measured, pair.coarse[:, :n_genes]
    q, phi, gamma = dense.q, dense.phi, dense.gamma
    p, n, m = dense.p, dense.n, dense.m
    t = gamma.T @ (m[:, None] * p)
    rate = t @ q
    ratio_v = np.where(rate > 0, v / np.where(rate > 0, rate, 1), 0)
    ratio_x = np.where(p @ q > 0, x / np.where(p @ q > 0, p @ q, 1), 0)
    b = gamma @ (ratio_v @ q.T)
    coarse_counts = m[:, None] * p * b
    counts = p * (ratio_x @ q.T) + coarse_counts
    num = p.T @ ratio_x + t.T @ ratio_v
    qx, qv, reach = q[:, measured].sum(1), q @ phi, gamma.sum(1)
    for _ in range(2):
        p = counts / (n[:, None] * qx + (m * reach)[:, None] * qv)
        p /= p.sum(1, keepdims=True)
        n = x.sum(1) / (p @ qx)
        m = np.where(reach > 0, coarse_counts.sum(1) / (np.where(reach > 0, reach, 1) * (p @ qv)), 0)
    den_x = (n[:, None] * p).sum(0)
    den_t = (gamma.T @ (m[:, None] * p)).sum(0)
    expected, gene_counts = q * num, (q * (t.T @ ratio_v)).sum(0)
    for _ in range(5):
        q = expected / (np.outer(den_x, measured) + np.outer(den_t, phi))
        means = den_t @ q
        phi = np.where(
            measured & (means > 0), np.maximum(gene_counts / np.where(means > 0, means, 1), 1e-12), 1.0
        )
    scale = q.sum(1)
    return p, n, m, q / scale[:, None], phi, scale


@pytest.mark.parametrize("n_links", [1, 3])
def test_a_pass_is_the_formula(n_links):
    pair = small_pair(1, n_links=n_links)
    method = build(Params(n_factors=3, restarts=2, holdout="g1,g7"), pair.facts(), "cpu", 0).method
    measured = np.ones(20, bool)
    measured[[1, 7]] = False
    state = method.init(pair.sample())
    for _ in range(4):
        before = [Dense(pair, state, lane) for lane in range(2)]
        state, _ = method.step(state, pair.unit())
        for lane in range(2):
            p, n, m, q, phi, scale = plain_pass(pair, before[lane], measured)
            assert state.losses[lane] == pytest.approx(before[lane].loss(pair, measured), rel=1e-12)
            np.testing.assert_allclose(state.factors[: pair.n_fine, lane, :3], p, rtol=1e-9, atol=1e-14)
            np.testing.assert_allclose(state.depths[: pair.n_fine, lane], n, rtol=1e-9)
            np.testing.assert_allclose(state.shares[: pair.n_fine, lane], m, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(state.shared.loadings[lane, :, :3].T, q, rtol=1e-9, atol=1e-14)
            np.testing.assert_allclose(state.shared.scaling[lane], phi, rtol=1e-9)
            np.testing.assert_allclose(state.shared.scale[lane, :3], scale, rtol=1e-9)


@pytest.mark.parametrize("sweeps", [1, 3])
@pytest.mark.parametrize("n_links", [1, 3])
@pytest.mark.parametrize("out_of_panel", ["after", "jointly"])
def test_the_loss_never_rises(out_of_panel, n_links, sweeps):
    pair = small_pair(2, n_links=n_links)
    _, _, losses = pair.fit(
        n_factors=4, restarts=1, sweeps=sweeps, out_of_panel=out_of_panel, tol=0.0, passes=60
    )
    fitted = losses[:60]
    assert (np.diff(fitted) <= 1e-9 * np.abs(fitted[1:])).all()
    assert fitted[-1] < fitted[0] - 100


def test_the_negative_binomial_loss_falls_while_its_sizes_rest():
    pair = small_pair(3)
    model, state, losses = pair.fit(
        n_factors=3, restarts=1, coarse_counts="negative-binomial", tol=0.0, passes=70, out_of_panel="none"
    )
    rested = losses[siid._SIZE_PASSES + 1 :]
    assert (np.diff(rested) <= 1e-9 * np.abs(rested[1:])).all()
    size = state.shared.size[0]
    assert ((size >= 0.05) & (size <= 1e4)).all()
    before = Dense(pair, state)
    state, _ = model.method.step(siid.replace(state, phase="fit"), pair.unit())
    assert state.losses[0] == pytest.approx(before.loss(pair, np.ones(20, bool)), rel=1e-9)


def test_with_entropy_the_penalised_loss_falls_and_cells_concentrate():
    pair = small_pair(4)
    method = build(Params(n_factors=4, restarts=1, entropy_lambda=1000.0), pair.facts(), "cpu", 0).method
    plain = pair.fit(n_factors=4, restarts=1, tol=0.0, passes=60, out_of_panel="none")[1]
    state = method.init(pair.sample())
    measured, weight, penalised = np.ones(20, bool), 12.0, []

    def held(*_):
        return weight

    original, siid.entropy_weight = siid.entropy_weight, held
    try:
        for _ in range(60):
            dense = Dense(pair, state)
            penalised.append(
                dense.loss(pair, measured) - weight * scipy.special.xlogy(dense.p, dense.p).sum()
            )
            state, _ = method.step(state, pair.unit())
    finally:
        siid.entropy_weight = original
    assert (np.diff(penalised) <= 1e-8 * np.abs(penalised[1:])).all()

    def entropy(one):
        p = Dense(pair, one).p
        return -scipy.special.xlogy(p, p).sum(1).mean()

    assert entropy(state) < 0.5 * entropy(plain)


def test_genes_of_the_coarse_slice_alone_are_poisson_regressions_on_the_mixtures():
    pair = small_pair(5, depth=200.0)
    model, state, _ = pair.fit(n_factors=3, restarts=1)
    t = Dense(pair, state).gamma.T @ (state.shares[:300, 0, None] * state.factors[:300, 0, :3])
    t = (t * state.shared.scale[0, :3])[:-1]
    v = pair.coarse[:-1, 20:]
    found = state.rest[:, :3]
    gradient = (v / (t @ found.T)).T @ t - t.sum(0)
    # where a loading is not at its bound the slope is nothing
    assert (np.abs(gradient * found).max(1) < 1e-2 * np.maximum(v.sum(0), 10)).all()
    assert (gradient / t.sum(0) < 0.05).all()
    loadings, _ = model.loadings(state)
    np.testing.assert_allclose(loadings.sum(0), 1)
