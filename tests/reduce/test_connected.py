"""Connecting to a scheduler that is there, and one line for one that is not."""

from __future__ import annotations

import pytest

from atlasnmf.errors import BadOption
from atlasnmf.reduce.cluster import connected


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
