"""Every pass over spots gives the same bits on a Dask cluster as in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from atlasnmf.features.components import find_components, write_scores
from atlasnmf.features.hvg import highly_variable
from atlasnmf.features.libraries import LogCounts
from atlasnmf.features.qc import survey
from atlasnmf.features.smooth import write_smoothed
from atlasnmf.schema import Csr
from atlasnmf.store.parts import PartedCsr, PartedDense, plan_parts
from tests.features.sources import neighbour_graph, random_counts

SIZES = (300, 200)
OFFSETS = np.array([0, 300, 500])


def everything(folder: Path, client: object) -> dict[str, bytes]:
    """Run all passes on rows on disk; return the bits of all results."""
    folder.mkdir()
    parts = plan_parts(OFFSETS, 90)
    counts = PartedCsr.create(folder / "counts", parts, n_cols=200)
    graph = PartedCsr.create(folder / "graph", parts, n_cols=500, dtype=np.uint8)
    matrix, edges = Csr.from_scipy(_sparse(random_counts(500, 200))), Csr.from_scipy(neighbour_graph(SIZES))
    for part in parts:
        counts.write_part(part.index, matrix.rows(part.start, part.stop))
        graph.write_part(part.index, edges.rows(part.start, part.stop))
    how = {"client": client, "n_workers": 2}
    codes = np.repeat([0, 1], SIZES)
    found = survey(counts, codes, n_slices=2, n_cols=200, tile_rows=64, **how)
    variable = highly_variable(counts, codes, found, found.gene_n_spots > 2, 50, tile_rows=64, **how)
    logs = LogCounts(counts, found.totals)
    components = find_components(logs, graph, OFFSETS, 200, n_components=5, n_sample=400, **how)
    scores = PartedDense.create(folder / "scores", parts, row_shape=(3, 5))
    scale = write_scores(logs, graph, components, scores, **how)
    smoothed = [PartedCsr.create(folder / "smoothed", parts, n_cols=200, dtype=np.float32)]
    write_smoothed(logs, graph, smoothed, degrees=graph.row_nnz(0, 500), **how)
    arrays = {
        "sums": found.sums,
        "variable": variable,
        "loadings": components.loadings,
        "means": components.means,
        "scores": scores.read(0, 500),
        "scale": scale,
        "smoothed": smoothed[0].read(0, 500).data,
    }
    return {name: array.tobytes() for name, array in arrays.items()}


def _sparse(dense: np.ndarray):  # type: ignore[no-untyped-def]
    import scipy.sparse as sp

    return sp.csr_matrix(dense)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_same_bits_here_and_on_a_cluster(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    here = everything(tmp_path / "here", None)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as workers,
        Client(workers) as client,
    ):
        there = everything(tmp_path / "there", client)
    assert [name for name in here if here[name] != there[name]] == []
