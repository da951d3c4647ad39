from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import spatialdata
from scipy.stats import mannwhitneyu, ttest_ind
from small_results import GENES, make_slice, make_store

from atlasnmf import tl
from atlasnmf.analysis.stored_patterns import stored_patterns
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.metrics import morans_i
from atlasnmf.metrics.differences import rank_sum_from_histograms, rank_sum_test


def logs_of(store):
    sdata = spatialdata.read_zarr(store)
    both = anndata.concat([sdata.tables["slice_1"], sdata.tables["slice_2"]])
    counts = np.asarray(both.X.todense(), float)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)), both.obs["region"].astype(
        str
    ).to_numpy()


def test_welch_is_scipys(small, monkeypatch):
    monkeypatch.setattr("atlasnmf.analysis.values._RUN_ROWS", 61)
    found = tl.differential(str(small), "region").set_index(["group", "gene"])
    values, region = logs_of(small)
    for label in ("r0", "r1", "r2"):
        inside, outside = values[region == label], values[region != label]
        score, p = ttest_ind(inside, outside, equal_var=False)
        rows = found.loc[label].loc[GENES]
        np.testing.assert_allclose(rows["score"], score, rtol=1e-4)
        np.testing.assert_allclose(rows["p"], p, rtol=1e-3, atol=1e-300)
        np.testing.assert_allclose(rows["mean"], inside.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(rows["share_rest"], (outside > 0).mean(axis=0), rtol=1e-6)
        fold = np.log2((np.expm1(inside.mean(0)) + 0.01) / (np.expm1(outside.mean(0)) + 0.01))
        np.testing.assert_allclose(rows["log_fold"], fold, atol=1e-4)
        top = found.loc[label].index[:5]
        assert all(int(gene[1:]) % 3 == int(label[1]) for gene in top)
    stored = spatialdata.read_zarr(small).tables["slice_1"].uns["region_differential"]
    assert stored["score"].shape == (3, 40)
    assert stored["genes"].tolist() == GENES


def test_rank_sums_are_scipys_up_to_intervals(small, monkeypatch):
    monkeypatch.setattr("atlasnmf.analysis.differential._HISTOGRAM_BYTES", 4 * 3 * 1024 * 7)
    found = tl.differential(str(small), "region", method="wilcoxon").set_index(["group", "gene"])
    values, region = logs_of(small)
    for label in ("r0", "r2"):
        inside, outside = values[region == label], values[region != label]
        reference = mannwhitneyu(inside, outside, use_continuity=False, method="asymptotic")
        auc = reference.statistic / (len(inside) * len(outside))
        rows = found.loc[label].loc[GENES]
        np.testing.assert_allclose(rows["auc"], auc, atol=2e-3)
        from scipy.stats import norm

        np.testing.assert_allclose(np.abs(rows["score"]), norm.isf(reference.pvalue / 2), atol=0.1)


def test_one_group_against_another(small):
    found = tl.differential(str(small), "region", groups=["r0", "r1"], reference="r1")
    assert set(found["group"]) == {"r0"}
    values, region = logs_of(small)
    score, _ = ttest_ind(values[region == "r0"], values[region == "r1"], equal_var=False)
    rows = found.set_index("gene").loc[GENES]
    np.testing.assert_allclose(rows["score"], score, rtol=1e-4)


@pytest.mark.parametrize("method", ["welch", "wilcoxon"])
def test_denoised_genes_and_layers(small, method):
    found = tl.differential(str(small), "region", source="inspire", method=method)
    read = stored_patterns(str(small), "inspire")
    values = read.patterns.astype(float) @ read.coefficients.T
    _, region = logs_of(small)
    inside = region == "r1"
    row = found.query("group == 'r1' and gene == 'g04'").iloc[0]
    assert row["log_fold"] == pytest.approx(values[inside, 4].mean() - values[~inside, 4].mean(), rel=1e-4)
    if method == "wilcoxon":
        reference = mannwhitneyu(values[inside, 4], values[~inside, 4]).statistic
        assert row["auc"] == pytest.approx(reference / (inside.sum() * (~inside).sum()), abs=2e-3)
    table = make_slice(4)
    table.layers["signed"] = np.random.default_rng(0).normal(size=table.shape)
    some = tl.differential(table, "region", source="signed", method=method, genes=["g02", "g05"])
    inside = (table.obs["region"] == "r2").to_numpy()
    column = table.layers["signed"][:, 5]
    row = some.query("group == 'r2' and gene == 'g05'").iloc[0]
    if method == "welch":
        expected = ttest_ind(column[inside], column[~inside], equal_var=False).statistic
        assert row["score"] == pytest.approx(expected, rel=1e-4)
    else:
        expected = mannwhitneyu(column[inside], column[~inside]).statistic
        assert row["auc"] == pytest.approx(expected / (inside.sum() * (~inside).sum()), abs=3e-3)


def test_a_gene_is_compared_where_it_was_measured(tmp_path):
    first, second = make_slice(1), make_slice(2, 200)
    path = make_store(tmp_path / "union.zarr", slice_1=first, slice_2=second[:, 1:].copy())
    found = tl.differential(str(path), "region")
    row = found.query("group == 'r0' and gene == 'g00'").iloc[0]
    counts = np.asarray(first.X.todense(), float)
    values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, 0]
    inside = (first.obs["region"] == "r0").to_numpy()
    assert row["score"] == pytest.approx(
        ttest_ind(values[inside], values[~inside], equal_var=False).statistic, rel=1e-4
    )


def test_rankings_are_scanpys(small):
    sc = pytest.importorskip("scanpy")
    values, region = logs_of(small)
    names = [str(i) for i in range(len(region))]
    adata = anndata.AnnData(values, obs=pd.DataFrame({"region": pd.Categorical(region)}, index=names))
    adata.var_names = GENES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(adata, "region", method="t-test")
        reference = sc.get.rank_genes_groups_df(adata, "r1").set_index("names").loc[GENES]
    found = tl.differential(str(small), "region").query("group == 'r1'").set_index("gene").loc[GENES]
    np.testing.assert_allclose(found["score"], reference["scores"], rtol=1e-3)


def test_rank_sums_of_values():
    rng = np.random.default_rng(0)
    values, codes = rng.integers(0, 6, 80).astype(float), rng.integers(0, 3, 80)
    score, p, auc = rank_sum_test(values, codes, 3)
    for k in range(3):
        reference = mannwhitneyu(
            values[codes == k], values[codes != k], use_continuity=False, method="asymptotic"
        )
        assert p[k] == pytest.approx(reference.pvalue)
        assert auc[k] == pytest.approx(reference.statistic / ((codes == k).sum() * (codes != k).sum()))
    counts = np.stack([np.bincount(values[codes == k].astype(int), minlength=6) for k in range(3)])
    for one, other in zip(rank_sum_from_histograms(counts), (score, p, auc), strict=True):
        np.testing.assert_allclose(one, other)


def test_genes_of_a_factor_vary_in_space(small):
    found = tl.spatial_genes(str(small), n_top=6)
    values, _ = logs_of(small)
    read = stored_patterns(str(small), "inspire")
    graph = read.graph(n_neighbors=6)
    for k in range(3):
        rows = found.query(f"factor == {k}")
        correlation = np.array([np.corrcoef(values[:, g], read.patterns[:, k])[0, 1] for g in range(40)])
        assert rows["gene"].tolist() == [GENES[g] for g in np.argsort(-correlation)[:6]]
        np.testing.assert_allclose(rows["correlation"], np.sort(correlation)[::-1][:6], atol=1e-5)
        expected = morans_i(values[:, [GENES.index(gene) for gene in rows["gene"]]], graph)
        np.testing.assert_allclose(rows["morans_i"], expected, atol=1e-5)
        assert (rows["q"] < 1e-6).all()


def test_moran_of_noise_is_not_significant():
    table = make_slice(5, 400)
    rng = np.random.default_rng(0)
    table.X = scipy.sparse.csr_matrix(rng.poisson(3.0, table.shape).astype(np.float32))
    found = tl.spatial_genes(table, n_top=40)
    p = found.drop_duplicates("gene")["p"]
    assert 0.25 < p.mean() < 0.75
    assert (p < 0.01).mean() < 0.1


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda s: tl.differential(s), BadInput, "no obs column 'domains'"),
        (lambda s: tl.differential(s, "region", method="magic"), BadOption, "welch or wilcoxon"),
        (lambda s: tl.differential(s, "region", groups=["r0", "r9"]), BadOption, "no group 'r9'"),
        (lambda s: tl.differential(s, "region", groups=["r0"]), BadInput, "fewer than two"),
        (lambda s: tl.differential(s, "region", reference="r9"), BadOption, "no group 'r9'"),
        (lambda s: tl.differential(s, "region", genes=["g99"]), BadOption, "did you mean"),
        (lambda s: tl.differential(s, "region", source="inspyre"), BadOption, "did you mean 'inspire'"),
        (lambda s: tl.spatial_genes(s, "stanmf"), BadInput, "atlasnmf fit stanmf"),
        (lambda s: tl.spatial_genes(s, n_top=0), BadOption, "n_top must be 1 or more"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_the_store(untouched, call, error, words):
    with pytest.raises(error, match=words):
        call(str(untouched))


def test_labels_no_spot_has_are_left_out():
    table = make_slice(6, 90)
    table.obs["region"] = table.obs["region"].cat.add_categories(["empty"])
    assert set(tl.differential(table, "region")["group"]) == {"r0", "r1", "r2"}
    assert list(tl.proportions(table, "region").columns) == ["r0", "r1", "r2"]
    assert set(tl.layer_enrichment(table, "region")["label"]) == {"r0", "r1", "r2"}
    table.obs["one"] = pd.Categorical(["all"] * 90, categories=["all", "empty"])
    with pytest.raises(BadInput, match="fewer than two"):
        tl.differential(table, "one")
    with pytest.raises(BadInput, match="fewer than two"):
        tl.layer_enrichment(table, "one")
