"""Networks and optimisers survive a round trip to the same bits, for every optimiser we use."""

from __future__ import annotations

import json

import pytest
import torch

from atlasnmf.train.torch_state import pack_torch, unpack_torch


def build(kind):
    torch_generator = torch.Generator().manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-1, 1, generator=torch_generator)
    optimizer = getattr(torch.optim, kind)(
        [{"params": network[0].parameters(), "lr": 0.1}, {"params": network[2].parameters()}], lr=0.01
    )
    return network, optimizer


def advance(network, optimizer, n_steps):
    for step in range(n_steps):
        rows = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(rows).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", ["Adam", "Adamax", "AdamW", "SGD"])
@pytest.mark.parametrize("n_before", [0, 1, 5])
def test_round_trip(kind, n_before):
    network, optimizer = build(kind)
    advance(network, optimizer, n_before)
    tensors, scalars = pack_torch({"net": network}, {"opt": optimizer})
    kept = {name: array.tobytes() for name, array in tensors.items()}
    advance(network, optimizer, 3)
    assert kept == {name: array.tobytes() for name, array in tensors.items()}, "packed arrays are copies"

    other, other_optimizer = build(kind)
    advance(other, other_optimizer, 1)
    unpack_torch(tensors, json.loads(json.dumps(scalars)), {"net": other}, {"opt": other_optimizer})
    advance(other, other_optimizer, 3)
    ours, theirs = network.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert other_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_several_networks_whose_names_share_a_beginning():
    first, second = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    tensors, scalars = pack_torch({"net": first, "net2": second}, {})
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    unpack_torch(tensors, scalars, {"net": a, "net2": b}, {})
    assert torch.equal(a.weight, first.weight)
    assert torch.equal(b.weight, second.weight)
