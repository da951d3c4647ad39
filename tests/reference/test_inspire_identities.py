"""The streaming forms of the INSPIRE losses against the dense formulas of the paper, value and gradient."""

import numpy as np
import pytest
import torch

from atlasnmf.models.inspire import losses
from atlasnmf.schema import Csr
from atlasnmf.seeds import rng_for
from atlasnmf.train.sparse_rows import DeviceRows, sparse_rows

CPU = torch.device("cpu")
# float64 sums in another order: a few units in the last place of sums of some thousand terms
EXACT = {"rtol": 1e-9, "atol": 1e-10}


def leaf(rng, *shape):
    return torch.tensor(rng.standard_normal(shape), requires_grad=True)


def sparse(rng, n, g, density=0.3, empty=()):
    dense = rng.poisson(2.0, (n, g)) * (rng.random((n, g)) < density)
    dense[list(empty)] = 0
    rows, columns = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum((dense > 0).sum(1))]).astype(np.int64)
    csr = Csr(indptr, columns.astype(np.uint16), dense[rows, columns].astype(np.uint16), g)
    return sparse_rows(csr, CPU, torch.float64), torch.tensor(dense, dtype=torch.float64)


def same(streamed, dense, leaves):
    torch.testing.assert_close(streamed, dense, **EXACT)
    ours = torch.autograd.grad(streamed, leaves, retain_graph=True)
    theirs = torch.autograd.grad(dense, leaves, retain_graph=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("masked", [False, True])
def test_factorisation_term(masked):
    rng = rng_for(0, "nmf")
    n, g, k = 23, 31, 5
    rows, y = sparse(rng, n, g)
    mask = torch.ones(g, dtype=torch.float64)
    if masked:
        mask[::3] = 0
        y = y * mask
        at = y.nonzero()
        indptr = np.concatenate([[0], np.cumsum((y > 0).sum(1).numpy())]).astype(np.int64)
        rows = sparse_rows(Csr(indptr, at[:, 1].numpy(), y[tuple(at.T)].numpy(), g), CPU, torch.float64)
    library = y.sum(1)
    logits, weights, gamma = leaf(rng, n, k), leaf(rng, g, k), leaf(rng, g)
    beta, mu = torch.softmax(logits, 1), torch.softmax(weights, 0)
    streamed = losses.poisson_factorisation(rows, library, beta, mu, gamma, mask if masked else None)
    r = torch.log(beta @ mu.T + 1e-6) + gamma
    dense = -(mask * (y * (library.log()[:, None] + r) - library[:, None] * r.exp())).sum(1).mean()
    same(streamed, dense, [logits, weights, gamma])


def as_tensors(rows):
    parts = (
        torch.from_numpy(np.asarray(part)) for part in (rows.indptr, rows.indices.astype(int), rows.data)
    )
    return DeviceRows(*parts, rows.shape[1])


def test_rows_on_a_device_say_what_rows_on_the_host_say(monkeypatch):
    monkeypatch.setattr(DeviceRows, "CHUNK", 13)
    rng = rng_for(0, "gathered")
    host, y = sparse(rng, 40, 17, empty=(2,))
    device = as_tensors(host)
    beta, mu = torch.softmax(leaf(rng, 40, 6), 1), torch.softmax(leaf(rng, 17, 6), 0)
    pairs = [(a.log_likelihood(beta, mu, 1e-6), a.dot(mu).square().sum()) for a in (host, device)]
    for ours, theirs in zip(*pairs, strict=True):
        same(ours, theirs, [mu])
    same(pairs[0][0], pairs[1][0], [beta])
    totals = np.asarray(y.sum(1))
    for a, b in [
        (host.row_sums(), device.row_sums()),
        (host.column_sums(), device.column_sums()),
        (host.first(7).dot(mu), device.first(7).dot(mu)),
        (host.unit_rows().dot(mu), device.unit_rows().dot(mu)),
        (host.dense(), device.dense()),
        (device.first(7).dense(), y[:7]),
    ]:
        torch.testing.assert_close(a, b, **EXACT)
    ours, theirs = host.log_normalised(totals, 1e4), device.log_normalised(totals, 1e4)
    # the kernel rounds to single precision
    torch.testing.assert_close(ours.dot(mu), theirs.dot(mu), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_reconstruction_norm(masked):
    rng = rng_for(1, "ae")
    n, g, h = 19, 29, 7
    rows, y = sparse(rng, n, g, empty=(3,))
    mask = (torch.arange(g) % 4 > 0).double() if masked else torch.ones(g, dtype=torch.float64)
    if masked:
        rows = rows.with_data(rows.data * mask.numpy()[rows.indices])
    hidden, weight, bias = leaf(rng, n, h), leaf(rng, g, h), leaf(rng, g)
    streamed = losses.reconstruction_norm(rows, hidden, weight, bias, mask if masked else None)
    dense = (mask * (y - hidden @ weight.T - bias)).norm(dim=1).mean()
    same(streamed, dense, [hidden, weight, bias])


def test_reconstruction_norm_of_a_perfect_decoder_has_no_gradient():
    rows, y = sparse(rng_for(2, "ae"), 4, 4)
    hidden = y.clone().requires_grad_()
    weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
    loss = losses.reconstruction_norm(rows, hidden, weight, torch.zeros(4, dtype=torch.float64))
    assert float(loss.detach()) < 1e-6
    assert all(torch.isfinite(grad).all() for grad in torch.autograd.grad(loss, [hidden, weight]))


def test_geometry():
    rng = rng_for(3, "geometry")
    rows, y = sparse(rng, 21, 33, empty=(5,))
    z = leaf(rng, 21, 4)
    unit = rows.unit_rows()

    def geometry(features):
        return losses.geometry_value(*losses.geometry_sums(z, features), len(z))

    def cosine(m):
        m = torch.nn.functional.normalize(m, dim=1, eps=1e-12)
        return m @ m.T

    left_out = cosine(y).square().sum(1).mean()
    dense = (cosine(z) - cosine(y)).square().sum(1).mean()
    same(geometry(unit) + left_out, dense, [z])
    torch.testing.assert_close(geometry(y) + left_out, dense, **EXACT)


def test_prior_and_adversaries():
    rng = rng_for(4, "gan")
    logits, lower, upper = leaf(rng, 11, 3), leaf(rng, 9), leaf(rng, 8)
    mean = torch.softmax(logits, 1).mean(0)
    torch.testing.assert_close(losses.factor_prior(mean), -4 * torch.log(mean + 1e-6).sum())
    d_dense = -torch.sigmoid(lower).log().mean() - (1 - torch.sigmoid(upper)).log().mean()
    same(losses.discriminator_loss(lower, upper), d_dense, [lower, upper])
    same(losses.adversary_loss(upper), -torch.sigmoid(upper).log().mean(), [upper])


def test_sparse_products_and_log_normalisation():
    rng = rng_for(5, "products")
    rows, y = sparse(rng, 12, 9, empty=(0, 11))
    w, v = leaf(rng, 9, 4), rng.standard_normal((12, 4))
    out = rows.dot(w)
    torch.testing.assert_close(out, y @ w, **EXACT)
    torch.testing.assert_close(
        torch.autograd.grad(out, w, torch.tensor(v))[0], y.T @ torch.tensor(v), **EXACT
    )
    torch.testing.assert_close(rows.row_sums(), y.sum(1))
    torch.testing.assert_close(rows.column_sums(), y.sum(0))
    totals = y.sum(1).numpy()
    x = rows.log_normalised(totals, 1e4)
    dense = torch.log1p(1e4 * y / torch.tensor(np.maximum(totals, 1))[:, None])
    # the kernel rounds to single precision
    torch.testing.assert_close(x.dot(torch.eye(9, dtype=torch.float64)), dense, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rows.first(5).dot(w), (y @ w)[:5], **EXACT)
