from __future__ import annotations

import numpy as np
import pytest
import spatialdata
from scipy.stats import mannwhitneyu
from sklearn.neighbors import KNeighborsRegressor
from small_results import GENES, bytes_of, make_slice, make_store

from atlasnmf import tl
from atlasnmf.analysis.impute import PairSums
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics import pearson

pytest.importorskip("faiss")


def logs_of(table):
    counts = np.asarray(table.X.todense(), float)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


@pytest.fixture
def panel(tmp_path):
    """The second slice measures half of the genes."""
    first, second = make_slice(1), make_slice(2, 200)
    rng = np.random.default_rng(0)
    for table in (first, second):
        table.obsm["X_smoothed_pca"] = rng.normal(size=(table.n_obs, 4)).astype(np.float32)
    path = make_store(tmp_path / "panel.zarr", slice_1=first, slice_2=second[:, ::2].copy())
    return path, first, second


def test_missing_genes_come_from_the_nearest_spots(panel, monkeypatch):
    path, first, second = panel
    monkeypatch.setattr("atlasnmf.analysis.impute._RUN_BYTES", 8 * 20 * 70)
    found = tl.impute(str(path), n_neighbors=9, hidden=5)
    assert list(found.genes) == GENES[1::2]
    reference = KNeighborsRegressor(9, weights="distance", algorithm="brute")
    reference.fit(first.obsm["X_inspire"], logs_of(first)[:, 1::2])
    expected = reference.predict(second.obsm["X_inspire"])
    sdata = spatialdata.read_zarr(path)
    table = sdata.tables["slice_2"]
    np.testing.assert_allclose(table.obsm["imputed"], expected, atol=2e-3)
    assert table.uns["imputed"]["genes"].tolist() == GENES[1::2]
    assert "imputed" not in sdata.tables["slice_1"].obsm
    truth = logs_of(second)[:, 1::2]
    assert np.median(pearson(truth, expected)) > 0.5


def test_hidden_genes_are_scored_beside_a_rival(panel):
    path, first, second = panel
    found = tl.impute(str(path), hidden=["g00", "g04"], n_neighbors=9)
    reference = KNeighborsRegressor(9, weights="distance", algorithm="brute")
    for prefix, key in (("", "X_inspire"), ("rival_", "X_smoothed_pca")):
        reference.fit(first.obsm[key], logs_of(first)[:, [0, 4]])
        kept = second[:, ::2]
        expected = pearson(logs_of(kept)[:, [0, 2]], reference.predict(second.obsm[key]))
        np.testing.assert_allclose(found.scores[f"{prefix}pearson"], expected, atol=2e-3)
        np.testing.assert_allclose(found.scores[f"{prefix}r2"], expected**2, atol=4e-3)
    assert (found.scores["pearson"] > found.scores["rival_pearson"] + 0.3).all()


def test_with_all_genes_everywhere_only_the_test_is_done(small):
    found = tl.impute(str(small), hidden=4)
    assert found.genes == ()
    assert len(found.scores) == 4
    table = spatialdata.read_zarr(small).tables["slice_1"]
    assert "imputed" not in table.obsm
    assert table.uns["imputed"]["source"].tolist() == ["slice_2"]


def test_named_genes_are_imputed_where_they_were_measured_too(small):
    tl.impute(str(small), ["g07"], target="slice_2", hidden=0)
    table = spatialdata.read_zarr(small).tables["slice_2"]
    assert table.obsm["imputed"].shape == (200, 1)
    region = table.obs["region"].astype(str)
    assert table.obsm["imputed"][region == "r1"].mean() > 2 * table.obsm["imputed"][region == "r0"].mean()


def test_sums_of_pairs_are_the_correlations():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(50, 4)), rng.normal(size=(50, 4))
    right[:, 2] = 3
    sums = PairSums(4)
    for start in range(0, 50, 13):
        sums.add(left[start : start + 13], right[start : start + 13])
    np.testing.assert_allclose(sums.pearson(), pearson(left, right), atol=1e-12)
    left[::3, 1] = np.nan
    sums = PairSums(4)
    sums.add(left, right)
    kept = np.isfinite(left[:, 1])
    assert sums.pearson()[1] == pytest.approx(np.corrcoef(left[kept, 1], right[kept, 1])[0, 1])


def test_factors_belong_to_the_layers_they_were_planted_in(small):
    found = tl.layer_enrichment(str(small), "region")
    sdata = spatialdata.read_zarr(small)
    tables = [sdata.tables[name] for name in ("slice_1", "slice_2")]
    factors = np.concatenate([table.obsm["inspire_factors"] for table in tables]).astype(float)
    region = np.concatenate([table.obs["region"].astype(str) for table in tables])
    slices = np.repeat([0, 1], [240, 200])
    for k in range(3):
        first = found.query(f"factor == {k}").iloc[0]
        assert first["label"] == first["layer"] == f"r{k}"
        inside = region == f"r{k}"
        effect, p = effect_of(factors[:, k], inside)
        assert first["effect"] == pytest.approx(effect)
        assert first["p"] == pytest.approx(p)
        alone = [effect_of(factors[slices == s, k], inside[slices == s])[0] for s in (0, 1)]
        assert first["lowest"] == pytest.approx(min(alone))
        assert first["fold"] == pytest.approx(factors[inside, k].mean() / factors[~inside, k].mean())
    assert tables[1].uns["inspire_region_enrichment"]["layer"].tolist() == ["r0", "r1", "r2"]
    strict = tl.layer_enrichment(str(small), "region", min_effect=1.1, overwrite=True)
    assert (strict["layer"] == "").all()


def effect_of(values, inside):
    found = mannwhitneyu(values[inside], values[~inside], use_continuity=False, method="asymptotic")
    return 2 * found.statistic / (inside.sum() * (~inside).sum()) - 1, found.pvalue


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda s: tl.impute(s, ["g99"]), BadOption, "no gene 'g99'"),
        (lambda s: tl.impute(s, hidden=["g99"]), BadOption, "no gene 'g99'"),
        (lambda s: tl.impute(s, hidden=0), BadInput, "no gene to impute"),
        (lambda s: tl.impute(s, target="slice_3"), BadOption, "no slice 'slice_3'"),
        (lambda s: tl.impute(s, target="slice_1", source="slice_1"), BadOption, "different slices"),
        (lambda s: tl.impute(s, key="X_spatialfuser"), BadInput, "fit"),
        (lambda s: tl.layer_enrichment(s), BadInput, "no obs column 'domains'"),
        (lambda s: tl.layer_enrichment(s, "region", "stanmf"), BadInput, "atlasnmf fit stanmf"),
        (lambda s: tl.layer_enrichment(s, "slice_1"), BadInput, "no obs column"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_the_store(untouched, call, error, words):
    with pytest.raises(error, match=words):
        call(str(untouched))


def test_one_slice_has_no_other_to_lend(tmp_path):
    path = make_store(tmp_path / "one.zarr", only=make_slice(1, 80))
    before = bytes_of(path)
    with pytest.raises(BadInput, match="needs another"):
        tl.impute(str(path))
    assert bytes_of(path) == before
