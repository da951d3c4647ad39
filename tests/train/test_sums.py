"""What ranks tell each other: gradients add up to that of the whole, messages have patience."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from atlasnmf.tiles.parts import share_of
from atlasnmf.train.ranks.group import Group, RankLost, open_store
from atlasnmf.train.sums import gathered, summed
from tests.models.threaded_ranks import run_ranks

ROWS = torch.linspace(-1, 2, 14, dtype=torch.float64).reshape(7, 2) ** 3
WEIGHT = torch.tensor([[0.5, 1.5], [-0.7, 0.3]], dtype=torch.float64)


def loss_of(rows: torch.Tensor, ranks: object = None, *, first: bool = True) -> torch.Tensor:
    """Normalise the rows of all by their mean and spread; a sum over rows, and a function of one."""
    whole, once, seen = gathered([rows, rows.sum(1)[:, None].sin(), rows.detach()], [7, 7, 7], ranks)
    mean, square = whole.mean(0), whole.square().mean(0)
    normal = (rows - mean) / (square - mean.square()).sqrt()
    (gram,) = summed([normal.T @ normal.sin()], ranks)
    # the term that all have counts in the gradient of all, those that rank 0 counts in its own
    alone = mean.prod() + once.square().prod() + (whole * seen).sin().sum()
    return normal.exp().sum() / 7 + gram.square().sum() + float(first) * alone


def test_what_is_gathered_is_differentiated_through() -> None:
    weight = WEIGHT.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(ROWS @ weight), weight)

    def gradient(one: object) -> torch.Tensor:
        own = WEIGHT.clone().requires_grad_()
        run = share_of(len(ROWS), one.rank, one.n_ranks)  # type: ignore[attr-defined]
        loss = loss_of(ROWS[run] @ own, one, first=one.rank == 0)  # type: ignore[attr-defined]
        return torch.autograd.grad(loss, own)[0]

    for n_ranks in (1, 2, 3, 9):  # of nine, two have no row
        torch.testing.assert_close(sum(run_ranks(n_ranks, gradient)), expected, rtol=1e-12, atol=1e-12)


def test_rows_come_in_the_order_of_ranks() -> None:
    def met(one: object) -> list[torch.Tensor]:
        run = share_of(len(ROWS), one.rank, one.n_ranks)  # type: ignore[attr-defined]
        return gathered([ROWS[run], ROWS[run][:, :1]], [7, 7], one)  # type: ignore[arg-type]

    for whole, column in run_ranks(3, met):
        assert torch.equal(whole, ROWS)
        assert torch.equal(column, ROWS[:, :1])


def test_without_ranks_sums_are_what_they_are_given() -> None:
    parts = [torch.ones(2, 1), torch.zeros(3, 1)]
    for found in (summed(parts, None), gathered(parts, [2, 3], None)):
        assert all(one is part for one, part in zip(found, parts, strict=True))


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


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_sums_and_exchanges_have_the_same_bits_everywhere(n_ranks: int) -> None:
    store = open_store("127.0.0.1", n_ranks, 60)
    generator = torch.Generator().manual_seed(0)
    given = [
        [torch.randn(n, generator=generator) for n in (5, 70_000)] + [torch.arange(3) + rank]
        for rank in range(n_ranks)
    ]
    ended: dict[int, object] = {}

    def rank(number: int) -> None:
        group = Group(
            number, n_ranks, store=("127.0.0.1", store.port), host="127.0.0.1", device="cpu", timeout_s=30
        )
        sums = [part.clone() for part in given[number]]
        for part in sums:  # short, long, whole numbers
            group.sum([part])
        came = group.exchange(
            [torch.full((number + 1,), float(10 * number + other)) for other in range(n_ranks)],
            [other + 1 for other in range(n_ranks)],
        )
        ended[number] = (sums, [part.tolist() for part in came])
        group.close()

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(n_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in range(n_ranks):
        sums, came = ended[number]  # type: ignore[misc]
        for at, part in enumerate(sums):
            torch.testing.assert_close(part, sum(own[at] for own in given))
            assert torch.equal(part, ended[0][0][at])  # type: ignore[index]
        assert came == [[10.0 * other + number] * (other + 1) for other in range(n_ranks)]
