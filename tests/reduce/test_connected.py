"""Connecting to a scheduler that is there, and one line for one that is not."""

from __future__ import annotations

import pytest

from atlasnmf.errors import BadOption
from atlasnmf.reduce.cluster import connected, processes


def test_no_address_means_no_client() -> None:
    with connected(None) as client:
        assert client is None


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_nobody_there_is_one_line_with_the_mend(address: str) -> None:
    with pytest.raises(BadOption, match="no Dask scheduler answers"), connected(address):
        pass


def test_a_scheduler_without_workers_is_refused() -> None:
    from dask.distributed import LocalCluster

    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster,
        pytest.raises(BadOption, match="no workers"),
        connected(cluster.scheduler_address),
    ):
        pass


def test_workers_that_are_slow_to_end_fail_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask gives up waiting for them after seconds; what they computed is there."""
    from dask.distributed import LocalCluster

    ended, close = [], LocalCluster.close

    def slow(cluster: LocalCluster, *args: object, **options: object) -> None:
        close(cluster, *args, **options)
        ended.append(cluster)
        raise TimeoutError

    monkeypatch.setattr(LocalCluster, "close", slow)
    with processes(2) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert ended
    with pytest.raises(ValueError, match="ours"), processes(2):
        raise ValueError("ours")
