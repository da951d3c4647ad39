import numpy as np
import pytest
import scipy.sparse
import scipy.special
import scipy.stats

from atlasnmf.kernels.cpu.em import padded_width

N_FINE, N_COARSE, N_GENES, N_FACTORS, N_RESTARTS = 60, 9, 14, 5, 2


def csr(dense, index_dtype=np.uint16):
    parts = scipy.sparse.csr_matrix(dense)
    return parts.indptr.astype(np.int64), parts.indices.astype(index_dtype), parts.data


class Pair:
    """A small pair in one precision, padded like the kernels want it, and as plain float64 arrays."""

    def __init__(self, real, seed=0, n_links=1):
        rng = np.random.default_rng(seed)
        self.real = real
        self.x = rng.poisson(1.0, (N_FINE, N_GENES)).astype(np.uint16)
        self.x[3] = 0
        self.v = rng.poisson(6.0, (N_COARSE, N_GENES)).astype(np.uint16)
        self.measured = np.arange(N_GENES) % 5 != np.array([[4], [2]])
        self.gamma = np.zeros((N_FINE, N_COARSE))
        for i in range(N_FINE - 5):  # the last cells and the last spot have no partner
            spots = rng.choice(N_COARSE - 1, n_links, replace=False)
            self.gamma[i, spots] = rng.dirichlet(np.ones(n_links))
        width = padded_width(N_FACTORS)
        self.q = np.zeros((N_RESTARTS, N_GENES, width), real)
        self.q[:, :, :N_FACTORS] = rng.dirichlet(np.ones(N_GENES), (N_RESTARTS, N_FACTORS)).transpose(0, 2, 1)
        self.p = np.zeros((N_FINE, N_RESTARTS, width), real)
        self.p[:, :, :N_FACTORS] = rng.dirichlet(np.ones(N_FACTORS), (N_FINE, N_RESTARTS))
        self.n = rng.uniform(5, 20, (N_FINE, N_RESTARTS)).astype(real)
        self.m = (rng.uniform(5, 20, (N_FINE, N_RESTARTS)) * (self.gamma.sum(1) > 0)[:, None]).astype(real)
        self.scale = np.ones((N_RESTARTS, width))
        self.scale[:, :N_FACTORS] = rng.uniform(0.5, 2, (N_RESTARTS, N_FACTORS))
        self.f = rng.uniform(0.5, 2, (N_RESTARTS, N_GENES))
        self.size = rng.uniform(1, 9, (N_RESTARTS, N_GENES))
        gamma, turned = scipy.sparse.csr_matrix(self.gamma), scipy.sparse.csr_matrix(self.gamma.T)
        self.links = gamma.indptr.astype(np.int64), gamma.indices, gamma.data.astype(real)
        self.turned = turned.indptr.astype(np.int64), turned.indices, turned.data.astype(real)
        self.panel_sums = np.einsum("rg,rgk->rk", self.measured, self.q.astype(float)).astype(real)
        self.push = np.einsum("rg,rgk->rk", self.f, self.q.astype(float))[None].astype(real)
        self.tolerance = (
            {"rtol": 1e-10, "atol": 1e-12} if real == np.float64 else {"rtol": 2e-4, "atol": 1e-5}
        )

    def mixtures(self):
        return np.einsum("iv,ir,irk->vrk", self.gamma, self.m.astype(float), self.p.astype(float))


def plain_fine(pair, r, pull, push, n_sweeps, step):
    """Rounds of expectation and maximisation on dense arrays; step moves the weights."""
    x, q, seen = pair.x.astype(float), pair.q[r].astype(float), pair.measured[r]
    p = pair.p[:, r].astype(float) * pair.scale[r]
    mass = p.sum(1)
    p, n, m = p / mass[:, None], pair.n[:, r] * mass, pair.m[:, r] * mass
    loss = (n[:, None] * p @ q.T - x * np.log(np.maximum(n[:, None] * p @ q.T, 1e-30)))[:, seen].sum()
    from_coarse = m[:, None] * p * (pair.gamma @ pull)
    price = pair.gamma @ push
    for _ in range(n_sweeps):
        ratio = np.where(seen, x / (p @ q.T), 0)
        expected = ratio.T @ p
        counts = p * (ratio @ q) + from_coarse
        for _ in range(2):
            cost = n[:, None] * q[seen].sum(0) + m[:, None] * price
            known = cost.sum(1) > 0
            p = np.where(known[:, None], step(counts, cost, p), p)
            new_n = x[:, seen].sum(1) / (p @ q[seen].sum(0))
            there = (p * price).sum(1)
            new_m = np.where(there > 0, from_coarse.sum(1) / np.where(there > 0, there, 1), 0)
            n, m = np.where(known, new_n, n), np.where(known, new_m, m)
    return p, n, m, expected, loss


def plain_step(counts, cost, p):
    new = np.where(counts > 0, counts / np.maximum(cost, 1e-30), 0)
    return new / np.maximum(new.sum(1, keepdims=True), 1e-300)


@pytest.mark.parametrize("real", [np.float64, np.float32])
def test_mixtures(side, real):
    pair = Pair(real, n_links=2)
    found = side.em.spot_mixtures(*pair.turned, pair.m, pair.p)
    assert found.dtype == real
    np.testing.assert_allclose(found, pair.mixtures(), **pair.tolerance)


@pytest.mark.parametrize("real", [np.float64, np.float32])
def test_coarse_sums(side, real):
    pair = Pair(real)
    t = pair.mixtures()
    pull, expected, log_rates = side.em.coarse_sums(*csr(pair.v), t.astype(real), pair.q)
    for r in range(N_RESTARTS):
        q = pair.q[r].astype(float)
        rate = t[:, r] @ q.T
        linked = rate.sum(1) > 0
        assert not linked[-1]
        ratio = np.where(linked[:, None], pair.v / np.where(rate > 0, rate, 1), 0)
        np.testing.assert_allclose(pull[:, r], ratio @ q, **pair.tolerance)
        np.testing.assert_allclose(expected[r], ratio.T @ t[:, r], **pair.tolerance)
        plain = (pair.v[linked] * np.log(rate[linked])).sum()
        assert log_rates[r] == pytest.approx(plain, rel=1e-5)


def test_later_columns_are_not_looked_at(side):
    pair = Pair(np.float64)
    t, first = pair.mixtures(), np.ascontiguousarray(pair.q[:, :9])
    whole, cut = csr(pair.v), csr(pair.v[:, :9])
    for function, more in (
        (side.em.coarse_sums, ()),
        (side.em.dispersed_sums, (pair.f[:, :9], pair.size[:, :9])),
    ):
        for found, expected in zip(
            function(*whole, t, first, *more), function(*cut, t, first, *more), strict=True
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("real", [np.float64, np.float32])
def test_dispersed_sums(side, real):
    pair = Pair(real)
    t = pair.mixtures()
    pull, expected, push, exposure, figures = side.em.dispersed_sums(
        *csr(pair.v), t.astype(real), pair.q, pair.f, pair.size
    )
    for r in range(N_RESTARTS):
        q, f, size = pair.q[r].astype(float), pair.f[r], pair.size[r]
        rate = (t[:, r] @ q.T)[:-1]
        mean, v = f * rate, pair.v[:-1].astype(float)
        weight = (v + size) / (mean + size)
        np.testing.assert_allclose(pull[:-1, r], (v / rate) @ q, **pair.tolerance)
        np.testing.assert_allclose(push[:-1, r], (weight * f) @ q, **pair.tolerance)
        np.testing.assert_allclose(expected[r], (v / rate).T @ t[:-1, r], **pair.tolerance)
        np.testing.assert_allclose(exposure[r], weight.T @ t[:-1, r], **pair.tolerance)
        assert not pull[-1].any()
        assert not push[-1].any()
        own = scipy.stats.nbinom.logpmf(v, size, size / (size + mean)) + scipy.special.gammaln(v + 1)
        assert figures[r, 0] == pytest.approx(own.sum(), rel=1e-4)
        np.testing.assert_allclose(figures[r, 1 : 1 + N_GENES], (mean**2).sum(0), rtol=1e-4)
        np.testing.assert_allclose(figures[r, 1 + N_GENES :], ((v - mean) ** 2 - v).sum(0), rtol=1e-3)


@pytest.mark.parametrize("n_sweeps", [1, 2])
@pytest.mark.parametrize("n_links", [1, 3])
@pytest.mark.parametrize("real", [np.float64, np.float32])
def test_fine_sweeps(side, real, n_links, n_sweeps):
    pair = Pair(real, n_links=n_links)
    rng = np.random.default_rng(1)
    pull = np.zeros((N_COARSE, N_RESTARTS, pair.q.shape[2]), real)
    pull[:, :, :N_FACTORS] = rng.uniform(0.5, 2, (N_COARSE, N_RESTARTS, N_FACTORS))
    own_push = (pair.push * rng.uniform(0.5, 2, (N_COARSE, N_RESTARTS, 1))).astype(real)
    for push in pair.push, own_push:
        p, n, m, expected, exposures, figures = side.em.fine_sweeps(
            *csr(pair.x),
            pair.measured,
            pair.q,
            pair.p,
            pair.n,
            pair.m,
            pair.scale,
            *pair.links,
            pull,
            push,
            pair.panel_sums,
            n_sweeps=n_sweeps,
        )
        assert p.dtype == n.dtype == m.dtype == real
        for r in range(N_RESTARTS):
            wide = np.broadcast_to(push[:, r], (N_COARSE, push.shape[2])).astype(float)
            found = plain_fine(pair, r, pull[:, r].astype(float), wide, n_sweeps, plain_step)
            np.testing.assert_allclose(p[:, r], found[0], **pair.tolerance)
            np.testing.assert_allclose(n[:, r], found[1], **pair.tolerance)
            np.testing.assert_allclose(m[:, r], found[2], **pair.tolerance)
            np.testing.assert_allclose(expected[r], found[3], **pair.tolerance)
            np.testing.assert_allclose(exposures[0, r], (found[1][:, None] * found[0]).sum(0), rtol=1e-4)
            reach = (found[2] * pair.gamma.sum(1))[:, None] * found[0]
            np.testing.assert_allclose(exposures[1, r], reach.sum(0), rtol=1e-4, atol=1e-12)
            assert figures[0, r] == pytest.approx(found[4], rel=1e-4)
    np.testing.assert_allclose(p[:, :, :N_FACTORS].sum(2), 1, rtol=1e-5)
    assert not p[:, :, N_FACTORS:].any()


def test_entropic_weights_are_the_roots_in_lamberts_w(side):
    # one restart, no coarse partner, a panel seen whole: the weights maximise sum x log p + w sum p log p
    rng = np.random.default_rng(3)
    width = padded_width(4)
    q = np.zeros((1, 40, width))
    q[0, :, :4] = np.repeat(np.eye(4), 10, axis=0) / 10
    counts = np.repeat(np.array([[30, 9, 4, 0], [5, 6, 7, 8], [90, 80, 10, 5]]), 1, axis=0)
    x = np.zeros((3, 40))
    for i, row in enumerate(counts):
        for k, total in enumerate(row):
            x[i, 10 * k : 10 * k + 10] = rng.multinomial(total, np.full(10, 0.1))
    p = np.zeros((3, 1, width))
    p[:, 0, :4] = 0.25
    depth, share = np.full((3, 1), 20.0), np.zeros((3, 1))
    none = np.zeros((1, 1, width))
    entropy = 2.5
    for _ in range(60):
        p, depth, share, *_ = side.em.fine_sweeps(
            *csr(x),
            np.ones((1, 40), bool),
            q,
            p,
            depth,
            share,
            np.ones((1, width)),
            np.zeros(4, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0),
            none,
            none,
            q.sum(1),
            entropy=entropy,
        )
    for i, row in enumerate(counts):
        # p = -(x/w) / W_{-1}(-(x/w) e^{1 + l/w}); the cost is the same for all factors and joins l
        some = row > 0
        found = p[i, 0, :4][some]
        multiplier = np.mean(-row[some] / found - entropy * (1 + np.log(found)))
        argument = -(row[some] / entropy) * np.exp(1 + multiplier / entropy)
        roots = -(row[some] / entropy) / scipy.special.lambertw(argument, -1).real
        np.testing.assert_allclose(found, roots, rtol=2e-3)
        assert (found / found.sum()).max() > (row / row.sum()).max() - 1e-9
        np.testing.assert_allclose(p[i, 0, :4][~some], 0)


def test_rows_are_independent_of_the_tile(side):
    pair = Pair(np.float32)
    pull = np.ones((N_COARSE, N_RESTARTS, pair.q.shape[2]), np.float32)

    def rows(start, stop):
        starts, links, weights = pair.links
        lo, hi = starts[start], starts[stop]
        return side.em.fine_sweeps(
            *csr(pair.x[start:stop]),
            pair.measured,
            pair.q,
            pair.p[start:stop],
            pair.n[start:stop],
            pair.m[start:stop],
            pair.scale,
            starts[start : stop + 1] - lo,
            links[lo:hi],
            weights[lo:hi],
            pull,
            pair.push,
            pair.panel_sums,
        )

    whole, parts = rows(0, N_FINE), [rows(0, 17), rows(17, N_FINE)]
    for at in range(3):
        np.testing.assert_array_equal(whole[at], np.concatenate([part[at] for part in parts]))
    np.testing.assert_allclose(whole[3], parts[0][3] + parts[1][3], rtol=1e-5, atol=1e-7)
