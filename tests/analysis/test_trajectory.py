from __future__ import annotations

import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import spatialdata
from scipy.stats import spearmanr
from small_results import make_slice

from atlasnmf import tl
from atlasnmf.analysis.trajectory import _Neighbours, diffusion_pseudotime, group_connectivities
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.pipeline.baselines import baseline
from atlasnmf.store.atlas import open_atlas

pytest.importorskip("faiss")
pytest.importorskip("scanpy")


def test_pseudotime_follows_the_depth(small):
    found = tl.trajectory(str(small), groups="region", root="r0", kernel="gauss")
    sdata = spatialdata.read_zarr(small)
    for name in ("slice_1", "slice_2"):
        table = sdata.tables[name]
        time = table.obs["trajectory_pseudotime"]
        assert spearmanr(time, table.obsm["spatial"][:, 1])[0] > 0.8
    record = sdata.tables["slice_1"].uns["trajectory"]
    assert record["order"].tolist() == ["r0", "r1", "r2"]
    assert found.mean_pseudotime[found.groups.index("r0")] < 0.25
    first, last = found.groups.index("r0"), found.groups.index("r2")
    middle = found.groups.index("r1")
    touching = found.connectivities
    assert min(touching[first, middle], touching[middle, last]) > 5 * touching[first, last]


def test_a_sample_carries_to_all(small):
    whole = tl.trajectory(str(small), groups="region", root="r2", kernel="gauss", key_added="whole")
    part = tl.trajectory(
        str(small), groups="region", root="r2", kernel="gauss", n_sample=150, key_added="part"
    )
    assert part.n_sample == 150
    assert np.isfinite(part.pseudotime).all()
    assert spearmanr(whole.pseudotime, part.pseudotime)[0] > 0.97


def test_an_end_is_found_without_a_root(small):
    found = tl.trajectory(str(small), groups="region", kernel="gauss", key_added="free")
    depth = np.concatenate([t.obsm("spatial")[:, 1] for t in open_atlas(small).tables])
    assert abs(spearmanr(found.pseudotime, depth)[0]) > 0.8


def test_connectivities_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    graph = scipy.sparse.random(60, 60, 0.1, format="csr", rng=rng)
    codes = rng.integers(0, 4, 60)
    dense = graph.toarray() != 0
    found = group_connectivities(graph, codes, 4)
    for i in range(4):
        for j in range(4):
            if i == j:
                continue
            of_i, of_j = codes == i, codes == j
            between = dense[np.ix_(of_i, of_j)].sum() + dense[np.ix_(of_j, of_i)].sum()
            expected = (dense[of_i].sum() * of_j.sum() + dense[of_j].sum() * of_i.sum()) / 59
            assert found[i, j] == pytest.approx(min(between / expected, 1))


def test_pseudotime_is_scanpys_where_scanpy_keeps_all_components():
    import warnings

    import scanpy as sc

    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 3))
    adata = anndata.AnnData(np.ones((200, 1)), obsm={"X": points})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(adata, n_neighbors=12, use_rep="X", method="gauss")
        sc.tl.diffmap(adata, n_comps=8)
        adata.uns["iroot"] = 5
        sc.tl.dpt(adata, n_dcs=8)
    values = adata.uns["diffmap_evals"]
    assert (values[1:] < 0.9994).all()
    found = diffusion_pseudotime(adata.obsm["X_diffmap"], values, 5, adata.obsp["connectivities"])
    # scanpy adds the stationary component's little differences
    np.testing.assert_allclose(found, adata.obs["dpt_pseudotime"], atol=0.01)


@pytest.mark.parametrize("n_rows", [300, 5200])
def test_neighbours_are_the_nearest_others(n_rows):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n_rows, 2)).astype(np.float32)
    rows[7] = rows[3]
    found = _Neighbours(6).fit_transform(rows)
    assert (np.diff(found.indptr) == 5).all()
    chosen = rng.choice(n_rows, 100, replace=False)
    right = 0
    for row in [3, 7, *chosen]:
        own = found.indices[found.indptr[row] : found.indptr[row + 1]]
        assert row not in own
        distance = np.linalg.norm(rows - rows[row], axis=1)
        distance[row] = np.inf
        right += int((distance[own] <= np.sort(distance)[4] + 1e-6).sum())
    # beyond 5,000 rows a neighbour beyond the cells searched may be missed
    assert right >= 5 * 102 - (0 if n_rows < 5000 else 5)


def test_what_cannot_be_reached_has_no_time():
    rng = np.random.default_rng(0)
    far = np.repeat([0.0, 1000.0], 60)[:, None] + rng.normal(size=(120, 2))
    obs = pd.DataFrame({"side": np.repeat(["a", "b"], 60)}, index=[f"s{i}" for i in range(120)])
    adata = anndata.AnnData(np.ones((120, 1)), obs=obs, obsm={"X_inspire": far})
    adata.obsm["X_inspire"][3] = np.nan
    found = tl.trajectory(adata, groups="side", root="a", kernel="gauss", n_neighbors=8)
    assert np.isnan(found.pseudotime[3])
    assert found.connectivities[0, 1] == 0


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"groups": "regions"}, BadInput, "did you mean 'region'"),
        ({"groups": "region", "root": "r7"}, BadOption, "there are r0, r1, r2"),
        ({"groups": "region", "key": "X_smoothed_pca"}, BadInput, "tl.baseline"),
        ({"groups": "region", "kernel": "round"}, BadOption, "umap or gauss"),
        ({"groups": "region", "n_neighbors": 1}, BadOption, "at least 3"),
        ({"groups": "region", "n_sample": 10}, BadInput, "too few"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_the_store(untouched, options, error, words):
    with pytest.raises(error, match=words):
        tl.trajectory(str(untouched), **options)


def test_without_scanpy_the_extra_is_named(untouched, monkeypatch):
    monkeypatch.setitem(sys.modules, "scanpy", None)
    with pytest.raises(BadOption, match=r"needs the package scanpy.*atlasnmf\[analysis\]"):
        tl.trajectory(str(untouched), groups="region")


def test_one_slice_is_enough():
    table = make_slice(3, 150)
    found = tl.trajectory(table, groups="region", root="r0", kernel="gauss")
    assert "trajectory_pseudotime" in table.obs
    assert found.n_sample == 150


@pytest.mark.slow
@pytest.mark.data
def test_layers_of_the_cortex_are_ordered(real_data, tmp_path):
    from atlasnmf.store.ingest import ingest

    files = [str(real_data / f"dlpfc_{name}.h5ad") for name in (151673, 151674)]
    ingest(files, str(tmp_path / "dlpfc.zarr"))
    atlas = open_atlas(tmp_path / "dlpfc.zarr")
    baseline(atlas)
    found = tl.trajectory(atlas, "X_smoothed_pca", groups="layer", root="WM")
    layers = np.concatenate([np.asarray(t.obs_column("layer"), dtype=object) for t in atlas.tables])
    order = [f"Layer{i}" for i in range(1, 7)] + ["WM"]
    depth = np.array([order.index(x) if x in order else np.nan for x in layers])
    known = np.isfinite(depth) & np.isfinite(found.pseudotime)
    assert abs(spearmanr(depth[known], found.pseudotime[known])[0]) > 0.93
