"""Normalisation by core rows, here and on several ranks, against the formula that torch differentiates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from atlasnmf.models.spatialfuser.attention import Edges
from atlasnmf.models.spatialfuser.graph import Graph
from atlasnmf.models.spatialfuser.norms import Norm, normalised
from atlasnmf.tiles.parts import share_of
from tests.models.threaded_ranks import run_ranks

GENERATOR = torch.Generator().manual_seed(3)
CORES = [torch.randn(n, 3, generator=GENERATOR, dtype=torch.float64) for n in (9, 4)]
HALO = torch.randn(2, 3, generator=GENERATOR, dtype=torch.float64)
NO_EDGES = Edges(torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def norms() -> list[Norm]:
    made = [Norm(3, 1).double(), Norm(3, 1).double()]
    for number, norm in enumerate(made):
        norm.weight.data = torch.tensor([1.0, -0.5, 2.0 + number], dtype=torch.float64)
        norm.bias.data = torch.tensor([0.1, 0.2, -float(number)], dtype=torch.float64)
    return made


def looked_at(rows: list[torch.Tensor]) -> torch.Tensor:
    """Return a number that every row changes, each in another way."""
    return torch.stack([(own.sin() * torch.arange(1, 4)).square().sum() for own in rows]).sum()


def expected(n_ranks: int) -> tuple[torch.Tensor, ...]:
    """Return what the rows, of which each rank has the halo too, are worth, and the gradients of it all."""
    cores, halo = [core.clone().requires_grad_() for core in CORES], HALO.clone().requires_grad_()
    made, total = norms(), torch.zeros((), dtype=torch.float64)
    for norm, core in zip(made, cores, strict=True):
        mean, var = core.mean(0), core.var(0, correction=0)

        def plain(rows: torch.Tensor, mean: Any = mean, var: Any = var, norm: Any = norm) -> torch.Tensor:
            return (rows - mean) / (var + 1e-5).sqrt() * norm.weight + norm.bias

        total = total + looked_at([plain(core)]) + n_ranks * looked_at([plain(halo)])
    weights = [weight for norm in made for weight in norm.parameters()]
    return total.detach(), *torch.autograd.grad(total, [*cores, halo, *weights])


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 5])
def test_value_and_gradients_are_those_of_the_formula(n_ranks: int) -> None:
    def part(one: Any) -> tuple[Any, ...]:
        ranks = one if n_ranks > 1 else None
        runs = [share_of(len(core), one.rank, n_ranks) for core in CORES]
        cores = [core[run].clone().requires_grad_() for core, run in zip(CORES, runs, strict=True)]
        halo, made = HALO.clone().requires_grad_(), norms()
        graphs = [
            Graph((len(own), len(own) + len(HALO)), NO_EDGES, n_shared=len(core), ranks=ranks)
            for own, core in zip(cores, CORES, strict=True)
        ]
        out = normalised(made, [torch.cat([own, halo]) for own in cores], graphs)
        loss = looked_at(out)
        weights = [weight for norm in made for weight in norm.parameters()]
        return loss.detach(), *torch.autograd.grad(loss, [*cores, halo, *weights])

    loss, first, second, *shared = expected(n_ranks)
    parts = run_ranks(n_ranks, part)
    torch.testing.assert_close(sum(own[0] for own in parts), loss, rtol=1e-12, atol=1e-12)
    for at, whole in ((1, first), (2, second)):
        torch.testing.assert_close(torch.cat([own[at] for own in parts]), whole, rtol=1e-9, atol=1e-9)
    for at, whole in enumerate(shared, start=3):
        torch.testing.assert_close(sum(own[at] for own in parts), whole, rtol=1e-9, atol=1e-9)


def test_a_single_row_is_its_own_mean() -> None:
    norm, row = norms()[0], torch.randn(1, 3, dtype=torch.float64, generator=GENERATOR)
    out = norm(row, Graph((1,), NO_EDGES))
    torch.testing.assert_close(out[0], norm.bias.detach(), rtol=0, atol=1e-9)
