import numpy as np
import pytest

from atlasnmf.analysis import leiden
from atlasnmf.analysis.leiden import fit_communities
from atlasnmf.analysis.nearest import faiss_index
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics import adjusted_rand

pytest.importorskip("faiss")
pytest.importorskip("graspologic_native")


def blobs(n, seed=0):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 6, n)
    return (8 * np.eye(6)[groups] + rng.normal(size=(n, 6))).astype(np.float32), groups


def test_edges_are_the_nearest_neighbours():
    rows, _ = blobs(200)
    edges = leiden._edges(faiss_index(rows, "Leiden"), rows, 5)
    distance = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    near = {(i, j) for i in range(200) for j in np.argsort(distance[i], kind="stable")[1:6].tolist()}
    expected = {(min(i, j), max(i, j)): float((i, j) in near) + float((j, i) in near) for i, j in near}
    assert {(int(i), int(j)): w for i, j, w in edges} == expected


@pytest.mark.parametrize("n", [600, 6000])
def test_communities_are_found_and_carried_over(n):
    rows, groups = blobs(n)
    fit = fit_communities(rows, 6)
    assert len(np.unique(fit.groups)) == 6
    assert adjusted_rand(groups, fit.groups) > 0.99
    others, truth = blobs(500, seed=1)
    assert adjusted_rand(truth, fit.predict(others)) > 0.99


def test_a_number_or_a_resolution():
    rows, _ = blobs(600)
    assert len(np.unique(fit_communities(rows, 12).groups)) in range(10, 15)
    coarse, fine = (fit_communities(rows, resolution=value).groups.max() for value in (0.2, 4.0))
    assert coarse < fine


def test_same_seed_same_groups():
    rows, _ = blobs(600)
    first, second = (fit_communities(rows, 9, random_state=3).groups for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_what_cannot_be_done_is_refused(monkeypatch):
    rows, _ = blobs(10)
    with pytest.raises(BadInput, match="10 spots are too few"):
        fit_communities(rows, 3)
    with pytest.raises(BadOption, match="positive"):
        fit_communities(blobs(50)[0], resolution=0.0)
    with pytest.raises(BadOption, match="number of domains or a resolution"):
        fit_communities(blobs(50)[0])
    monkeypatch.setitem(__import__("sys").modules, "graspologic_native", None)
    with pytest.raises(BadOption, match=r"atlasnmf\[analysis\]"):
        fit_communities(blobs(50)[0], 3)
