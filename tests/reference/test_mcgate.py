"""MCGATE on edges against the plain N x N formula of the paper, values and gradients, in float64."""

import numpy as np
import pytest
import torch
from torch.nn.functional import elu, normalize

from atlasnmf.models.spatialfuser import losses
from atlasnmf.models.spatialfuser.attention import (
    Edges,
    _DeviceSum,
    _HostSum,
    aggregate,
    cosine_shares,
    edge_shares,
)
from atlasnmf.models.spatialfuser.graph import Graph
from atlasnmf.models.spatialfuser.networks import Heads, Mcgate, errors
from atlasnmf.seeds import rng_for

N, N_IN, WIDTHS = 30, 12, (16, 8)


def small_graph(seed=0, n=N, n_neighbors=4):
    """A directed graph of nearest neighbours, the spot itself included: edges, and a mask (N, N)."""
    points = rng_for(seed, "mcgate", "points").uniform(size=(n, 2))
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    near = np.sort(np.argsort(distance, axis=1)[:, : n_neighbors + 1], axis=1)
    mask = np.zeros((n, n), bool)
    np.put_along_axis(mask, near, True, axis=1)
    edges = Edges(
        torch.arange(0, near.size + 1, n_neighbors + 1), torch.from_numpy(near.ravel().astype(np.int64))
    )
    return edges, torch.from_numpy(mask)


def features(seed=0, n=N, width=N_IN):
    return torch.from_numpy(rng_for(seed, "mcgate", "rows").standard_normal((n, width)))


def dense_shares(own, other, prior, mask):
    """softmax_j( p_ij sigmoid(own_i + other_j) ) over the mask, one head."""
    logits = prior * torch.sigmoid(own[:, None] + other[None, :])
    return torch.softmax(logits.masked_fill(~mask, -torch.inf), dim=1)


def dense_prior(latent, mask, n_heads):
    """p of every head: softmax over the neighbours of the cosine of the last embeddings."""
    blocks = latent.reshape(len(latent), n_heads, -1)
    priors = []
    for h in range(n_heads):
        unit = normalize(blocks[:, h], dim=1)
        priors.append(torch.softmax((unit @ unit.T).masked_fill(~mask, -torch.inf), dim=1))
    return priors


def batch_norm(rows, norm):
    mean, var = rows.mean(0), rows.var(0, correction=0)
    return (rows - mean) / torch.sqrt(var + norm.EPS) * norm.weight + norm.bias


def dense_mcgate(net, rows, mask, priors, far=None):
    """Write the autoencoder out with N x N attention per head."""
    kept = []
    for layer in net.layers:
        n_heads = len(layer.heads.weight)
        padded = torch.nn.functional.pad(rows, (0, layer.heads.pad))
        given = padded.reshape(len(rows), n_heads, -1)
        parts, attention = [], []
        for h in range(n_heads):
            projected = given[:, h] @ layer.heads.weight[h]
            own, other = projected @ layer.ends[0, h], projected @ layer.ends[1, h]
            near = dense_shares(own, other, priors[h], mask)
            if far is not None:
                some = far.any(1)
                long = torch.zeros_like(near)
                long[some] = dense_shares(own, other, torch.ones_like(near), far | ~some[:, None])[some]
                alpha = layer.alpha * some.to(near.dtype)[:, None]
                near = (1 - alpha) * near + alpha * long
            attention.append(near)
            parts.append(near @ projected)
        mixed = batch_norm(torch.cat(parts, 1), layer.before)
        rows = batch_norm(elu(layer.dense(mixed)) + mixed, layer.after)
        kept.append(attention)
    latent = rows
    for number in reversed(range(len(net.layers))):
        layer = net.layers[number]
        n_heads = len(layer.heads.weight)
        blocks = rows.reshape(len(rows), n_heads, -1)
        parts = [kept[number][h] @ (blocks[:, h] @ layer.heads.weight[h].T) for h in range(n_heads)]
        rows = torch.cat(parts, 1)[:, : layer.heads.n_in]
        if not (net.linear and number == 0):
            rows = elu(rows)
    return latent, rows


def network(n_heads, *, alpha=0.0, linear=False, n_in=N_IN):
    generator = torch.Generator().manual_seed(3)
    net = Mcgate(n_in, WIDTHS, n_heads, alpha=alpha, linear=linear, generator=generator).double()
    with torch.no_grad():
        for layer in net.layers:
            for norm in (layer.before, layer.after):
                norm.weight.uniform_(0.5, 1.5, generator=generator)
                norm.bias.uniform_(-0.5, 0.5, generator=generator)
            layer.dense.bias.uniform_(-0.5, 0.5, generator=generator)
    return net.train()


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("with_prior", [False, True])
@pytest.mark.parametrize("n_heads", [1, 4])
def test_equals_the_dense_formula(n_heads, with_prior, linear):
    edges, mask = small_graph()
    rows, net = features(), network(n_heads, linear=linear)
    last = features(1, width=WIDTHS[-1])
    prior = cosine_shares(edges, last, n_heads) if with_prior else None
    dense = dense_prior(last, mask, n_heads) if with_prior else [torch.ones(N, N).double()] * n_heads

    found = net(rows, Graph((N,), edges, prior=prior))
    expected = dense_mcgate(net, rows, mask, dense)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)

    weights = list(net.parameters())
    slopes = [
        torch.autograd.grad((latent.sin().sum() + (out - rows).square().mean()), weights)
        for latent, out in (found, expected)
    ]
    for ours, plain in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("n_heads", "n_in"), [(1, N_IN), (4, N_IN), (4, 10)])
@pytest.mark.parametrize("linear", [False, True])
def test_the_error_is_that_of_the_reconstruction(n_heads, n_in, linear, monkeypatch):
    monkeypatch.setattr(losses, "_ROWS", 7)
    edges, _ = small_graph()
    rows, net = features(width=n_in), network(n_heads, linear=linear, n_in=n_in)
    graph = Graph((N,), edges)
    (latent,), (missed,) = errors([net], [rows], [graph])
    same, decoded = net(rows, graph)
    expected = (decoded - rows).square().mean()
    torch.testing.assert_close(latent, same)
    torch.testing.assert_close(missed, expected)
    weights = list(net.parameters())
    for ours, plain in zip(
        torch.autograd.grad(3 * missed, weights), torch.autograd.grad(3 * expected, weights), strict=True
    ):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)


def test_heads_that_do_not_divide_the_features_are_padded():
    edges, mask = small_graph()
    rows, net = features(width=10), network(4, n_in=10)
    found = net(rows, Graph((N,), edges))
    expected = dense_mcgate(net, rows, mask, [torch.ones(N, N).double()] * 4)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-9, atol=1e-9)


def test_attention_depends_on_the_neighbour():
    """In the published one-head form it does not: its transpose of a vector does nothing."""
    edges, _ = small_graph()
    own, other = torch.zeros(N, 1).double(), features(2, width=1)
    shares = edge_shares(edges, own, other, None)[: int(edges.indptr[1]), 0]
    assert shares.std() > 1e-3
    expected = torch.softmax(torch.sigmoid(other[edges.neighbour[: len(shares)], 0]), 0)
    torch.testing.assert_close(shares, expected)


def test_long_range_edges_are_mixed_in():
    edges, mask = small_graph()
    rng = rng_for(0, "mcgate", "far")
    far = torch.from_numpy(rng.uniform(size=(N, N)) < 0.1) & ~mask
    far[::3] = False  # spots without anything alike elsewhere
    listed = Edges(torch.cat([torch.zeros(1, dtype=torch.int64), far.sum(1).cumsum(0)]), far.nonzero()[:, 1])
    net, rows = network(4, alpha=0.3), features()
    found = net(rows, Graph((N,), edges, far=listed))
    expected = dense_mcgate(net, rows, mask, [torch.ones(N, N).double()] * 4, far)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", [_HostSum, _DeviceSum])
def test_gradients_of_the_weighted_sum(form):
    edges, _ = small_graph(n=8, n_neighbors=3)
    shares = features(3, n=edges.n_edges, width=2).requires_grad_()
    rows = features(4, n=8, width=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: form.apply(edges, a, b), (shares, rows))


def test_gradients_of_the_shares():
    edges, _ = small_graph(n=8, n_neighbors=3)
    prior = features(5, n=edges.n_edges, width=2).abs()
    own, other = (features(seed, n=8, width=2).requires_grad_() for seed in (6, 7))
    assert torch.autograd.gradcheck(lambda a, b: edge_shares(edges, a, b, prior), (own, other))
    sums = aggregate(edges, edge_shares(edges, own, other, prior), torch.ones(8, 2).double())
    torch.testing.assert_close(sums, torch.ones(8, 2).double())


def test_direction_is_the_mean_over_all_pairs():
    left, right = features(8, n=7), features(9, n=11)
    cosines = normalize(left, dim=1) @ normalize(right, dim=1).T
    found = losses.direction(losses.heading(left, 7), losses.heading(right, 11))
    torch.testing.assert_close(found, 1 - cosines.mean())


def test_triplets_written_out():
    anchor, positive, away, other = (features(seed, n=5, width=3) for seed in range(4))
    expected = 0.0
    for a, p, n, m in zip(anchor, positive, away, other, strict=True):
        near = float((a - p).norm())
        expected += near + max(near - float((a - n).norm()) + 1, 0) + max(near - float((p - m).norm()) + 1, 0)
    assert float(losses.triplets(anchor, positive, away, other, 1.0)) == pytest.approx(expected / 5)


def test_heads_and_their_transpose():
    heads = Heads(10, 8, 4, torch.Generator().manual_seed(0)).double()
    full = torch.block_diag(*heads.weight)[:10]
    rows, back = features(width=10), features(1, width=8)
    torch.testing.assert_close(heads(rows), rows @ full)
    torch.testing.assert_close(heads.back(back), back @ full.T)
