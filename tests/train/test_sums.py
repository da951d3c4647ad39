"""Sums inside a loss: gradients of ranks add up to that of the whole, and some sums have patience."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from atlasnmf.train.ranks.group import Group, RankLost, open_store
from atlasnmf.train.sums import pooled, summed
from tests.models.threaded_ranks import run_ranks

ROWS = torch.linspace(-1, 2, 14, dtype=torch.float64).reshape(7, 2) ** 3
WEIGHT = torch.tensor([[0.5, 1.5], [-0.7, 0.3]], dtype=torch.float64)


def loss_of(rows: torch.Tensor, ranks: object = None, *, first: bool = True) -> torch.Tensor:
    """Normalise the rows of all by their mean and spread; a sum over rows, and a function of one."""
    mean, square = pooled([rows.sum(0) / 7, rows.square().sum(0) / 7], ranks)
    normal = (rows - mean) / (square - mean.square()).sqrt()
    (gram,) = summed([normal.T @ normal.sin()], ranks)
    # the term that all have counts in the gradient of all, the one that rank 0 counts in its own
    return normal.exp().sum() / 7 + gram.square().sum() + float(first) * mean.prod()


def test_a_normalisation_over_all_ranks_is_differentiated_through() -> None:
    weight = WEIGHT.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(ROWS @ weight), weight)

    def gradient(one: object) -> torch.Tensor:
        own = WEIGHT.clone().requires_grad_()
        rows = ROWS[one.rank :: one.n_ranks] @ own  # type: ignore[attr-defined]
        loss = loss_of(rows, one, first=one.rank == 0)  # type: ignore[attr-defined]
        return torch.autograd.grad(loss, own)[0]

    for n_ranks in (1, 2, 3):
        torch.testing.assert_close(sum(run_ranks(n_ranks, gradient)), expected, rtol=1e-12, atol=1e-12)


def test_without_ranks_sums_are_what_they_are_given() -> None:
    parts = [torch.ones(2), torch.zeros(3)]
    for kind in (pooled, summed):
        assert all(found is part for found, part in zip(kind(parts, None), parts, strict=True))


@pytest.mark.parametrize("late", [True, False])
def test_a_late_sum_waits_longer_than_others(late: bool) -> None:
    store = open_store("127.0.0.1", 2, 60)
    ended: dict[int, object] = {}

    def rank(number: int) -> None:
        group = Group(
            number, 2, store=("127.0.0.1", store.port), host="127.0.0.1", device="cpu", timeout_s=1.0
        )
        values = torch.tensor([number, 1])
        group.sum([values])  # the first one waits anyhow
        if number:
            time.sleep(3)
        try:
            group.sum([values], late=late)
            ended[number] = values.tolist()
        except RankLost as lost:
            ended[number] = lost
        finally:
            group.close()

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if late:
        assert ended == {0: [2, 4], 1: [2, 4]}
    else:
        assert isinstance(ended[0], RankLost)
