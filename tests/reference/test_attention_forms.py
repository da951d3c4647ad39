"""The form of attention for devices against the host's: values and gradients, on whatever device there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atlasnmf.models.spatialfuser import attention
from atlasnmf.models.spatialfuser.attention import Edges
from atlasnmf.seeds import rng_for

N, HEADS, WIDTH = 17, 2, 6


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    monkeypatch.setattr(attention, "CHUNK", 13)  # several runs of edges, the last a short one
    return torch.device(request.param)


def graph():
    near = rng_for(0, "forms").uniform(size=(N - 4, N)) < 0.3
    near[np.arange(N - 4), np.arange(N - 4)] = True
    starts = np.concatenate([[0], np.cumsum(near.sum(1))])
    return Edges(torch.from_numpy(starts), torch.from_numpy(np.nonzero(near)[1]))


def leaves(*shapes):
    rng = rng_for(1, "forms")
    return [torch.from_numpy(rng.normal(size=shape)).requires_grad_() for shape in shapes]


def both(host_form, device_form, device, edges, inputs):
    """Return value and gradients of either form, as they come back to the host."""
    there = Edges(edges.indptr.to(device), edges.neighbour.to(device))
    found = []
    for form, graph, where in ((host_form, edges, "cpu"), (device_form, there, device)):
        given = [value.detach().to(where).requires_grad_() for value in inputs]
        out = form(graph, *given)
        weights = torch.linspace(-1, 2, out.numel(), dtype=out.dtype, device=where).reshape(out.shape)
        grads = torch.autograd.grad((out * weights).sum(), given)
        found.append([value.detach().cpu() for value in (out, *grads)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
def test_shares_of_edges(device, weighted):
    edges = graph()
    prior = torch.from_numpy(rng_for(2, "forms").uniform(size=(edges.n_edges, HEADS))) if weighted else None

    def host(edges, own, other):
        return attention._HostShares.apply(edges, own, other, prior)

    def there(edges, own, other):
        return attention._device_shares(edges, own, other, None if prior is None else prior.to(own.device))

    both(host, there, device, edges, leaves((N, HEADS), (N, HEADS)))


def test_weighted_sums(device):
    edges = graph()
    inputs = leaves((edges.n_edges, HEADS), (N, WIDTH))
    both(attention._HostSum.apply, attention._DeviceSum.apply, device, edges, inputs)


def test_shares_by_cosine(device):
    edges = graph()
    (rows,) = leaves((N, WIDTH))
    rows = rows.detach()
    rows[3] = 0
    found = attention._device_cosine_shares(
        Edges(edges.indptr.to(device), edges.neighbour.to(device)), rows.to(device), HEADS
    )
    torch.testing.assert_close(found.cpu(), attention.cosine_shares(edges, rows, HEADS), rtol=1e-9, atol=1e-9)
