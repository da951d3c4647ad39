"""Ranks share a training: the sums of one worker, the same bits again, and through every loss of a worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from ranked_method import RankedAutoencoder, SmallJob
from torch_method import RandomUnits

from atlasnmf.errors import BadOption, Interrupted
from atlasnmf.events import Silent
from atlasnmf.train import Callback, run
from atlasnmf.train.ranks import Terms, train_on_workers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


class Heard(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)

    warn = note


class Steps(Callback):
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []

    def start(self, step: int) -> None:
        self.steps, self.losses = self.steps[:step], self.losses[:step]

    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        self.steps.append(step)
        self.losses.append(metrics["loss"])


@pytest.fixture(scope="module")
def client() -> Iterator[object]:
    """Two workers that are processes of their own, with nannies."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            memory_limit=0,
        ) as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


def trained(client, job, n_ranks=2, **terms):  # type: ignore[no-untyped-def]
    return train_on_workers(client, job, Terms(n_ranks, device="cpu", **terms))


@pytest.fixture(scope="module")
def whole(client, tmp_path_factory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("whole")
    return trained(client, SmallJob(folder))


def same(left, right):  # type: ignore[no-untyped-def]
    assert left.step == right.step
    assert left.tensors.keys() == right.tensors.keys()
    for name, array in left.tensors.items():
        np.testing.assert_array_equal(array, right.tensors[name], err_msg=name)
    assert left.scalars == right.scalars


def test_two_ranks_are_one_worker_up_to_the_order_of_sums(client, whole, tmp_path):  # type: ignore[no-untyped-def]
    method = RankedAutoencoder(12)
    state = run(method, RandomUnits(), sample=lambda: RandomUnits(seed=9).unit(0))
    for name, array in method.pack(state)[0].items():
        np.testing.assert_allclose(whole.tensors[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_same_bits_again_and_figures_of_every_step(client, whole, tmp_path):  # type: ignore[no-untyped-def]
    heard = Steps()
    again = train_on_workers(client, SmallJob(tmp_path), Terms(2, device="cpu"), listeners=[heard])
    same(again, whole)
    assert heard.steps == list(range(1, 13))
    assert np.isfinite(heard.losses).all()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 12


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_changes_no_bit(client, whole, tmp_path, rank):  # type: ignore[no-untyped-def]
    events = Heard()
    job = SmallJob(tmp_path, trouble="kill", in_trouble=rank)
    outcome = train_on_workers(client, job, Terms(2, device="cpu"), events=events)
    assert (tmp_path / "kill.done").exists()
    assert any("lost" in line for line in events.said)
    assert any("resuming autoencoder after step 5" in line for line in events.said)
    same(outcome, whole)


@pytest.mark.slow
def test_a_worker_that_hangs_is_started_anew(client, whole, tmp_path):  # type: ignore[no-untyped-def]
    events = Heard()
    job = SmallJob(tmp_path, trouble="hang")
    outcome = train_on_workers(client, job, Terms(2, device="cpu", timeout_s=4), events=events)
    assert any("does not answer" in line for line in events.said)
    same(outcome, whole)


@pytest.mark.parametrize(
    ("trouble", "error"), [("bug", ZeroDivisionError), ("refuse", BadOption)], ids=["bug", "refuse"]
)
@pytest.mark.parametrize("rank", [0, 1])
def test_errors_of_a_rank_are_raised_here(client, tmp_path, trouble, error, rank):  # type: ignore[no-untyped-def]
    with pytest.raises(error):
        trained(client, SmallJob(tmp_path, trouble=trouble, in_trouble=rank))


def test_a_worker_that_cannot_take_part_is_named(client, tmp_path):  # type: ignore[no-untyped-def]
    with pytest.raises(BadOption, match=r"worker tcp://127.0.0.1:\d+: it does not see the files"):
        trained(client, SmallJob(tmp_path, no="it does not see the files"))
    assert list(tmp_path.iterdir()) == []


def test_too_few_workers_wait_and_stop_resumable(client, tmp_path):  # type: ignore[no-untyped-def]
    with pytest.raises(Interrupted, match="needs 3 workers and the cluster has 2"):
        trained(client, SmallJob(tmp_path), n_ranks=3, patience_s=0.5)


def test_elastic_goes_on_with_fewer(client, whole, tmp_path):  # type: ignore[no-untyped-def]
    events = Heard()
    terms = Terms(3, device="cpu", elastic=True)
    outcome = train_on_workers(client, SmallJob(tmp_path), terms, events=events)
    assert any("going on with 2 of 3 workers" in line for line in events.said)
    same(outcome, whole)


def test_two_jobs_never_interleave(client, whole, tmp_path):  # type: ignore[no-untyped-def]
    outcomes: dict[str, object] = {}

    def train(name: str) -> None:
        (tmp_path / name).mkdir()
        outcomes[name] = trained(client, SmallJob(tmp_path / name, pause_s=0.02))

    threads = [threading.Thread(target=train, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for name in ("one", "two"):
        same(outcomes[name], whole)


class PressCtrlC(Callback):
    def on_step(self, step: int, metrics: dict[str, float]) -> None:
        if step == 6:
            import signal

            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_saves_and_a_resume_ends_alike(client, whole, tmp_path):  # type: ignore[no-untyped-def]
    job = SmallJob(tmp_path, pause_s=0.3)
    with pytest.raises(Interrupted, match=r"interrupted after step (\d+)"):
        train_on_workers(client, job, Terms(2, device="cpu"), listeners=[PressCtrlC()])
    same(trained(client, SmallJob(tmp_path)), whole)
