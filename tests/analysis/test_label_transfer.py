from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
from sklearn.neighbors import KNeighborsClassifier
from small_results import SETS, bytes_of, make_slice, make_store

from atlasnmf import tl
from atlasnmf.analysis.label_transfer import _elect
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.results import ResultWriter

pytest.importorskip("faiss")


@pytest.fixture
def half(tmp_path):
    """The second slice without labels, and matches between the two."""
    first, second = make_slice(1), make_slice(2, 200)
    truth = second.obs.pop("region")
    path = make_store(tmp_path / "half.zarr", slice_1=first, slice_2=second)
    return path, truth.to_numpy()


def add_matches(path, pairs):
    frame = pd.DataFrame(pairs, columns=["source", "target", "score", "passed"])
    frame.insert(0, "source_table", "slice_1")
    frame["target_table"] = "slice_2"
    frame.index = [str(i) for i in range(len(frame))]
    with ResultWriter(open_atlas(path)) as writer:
        writer.table("spatialfuser_matches", frame)


def test_votes_are_weighed_by_distance_as_scikit_learn_does(half):
    path, truth = half
    found = tl.label_transfer(str(path), "region", n_neighbors=7)
    first, second = (spatialdata.read_zarr(path).tables[name] for name in ("slice_1", "slice_2"))
    reference = KNeighborsClassifier(7, weights="distance", algorithm="brute")
    reference.fit(first.obsm["X_inspire"], first.obs["region"])
    expected = reference.predict(second.obsm["X_inspire"])
    assert (second.obs["region_transferred"].astype(str) == expected).mean() > 0.995
    shares = reference.predict_proba(second.obsm["X_inspire"]).max(axis=1)
    np.testing.assert_allclose(second.obs["region_transferred_confidence"], shares, atol=1e-3)
    assert (second.obs["region_transferred"] == truth).mean() > 0.9
    assert found.held_out_accuracy > 0.85
    assert np.isnan(found.accuracy)
    assert "region_transferred" not in first.obs
    assert second.uns["region_transferred"]["source"].tolist() == ["slice_1"]


def test_accuracy_where_the_target_has_labels(small):
    found = tl.label_transfer(str(small), "region", source="slice_2", target="slice_1")
    table = spatialdata.read_zarr(small).tables["slice_1"]
    assert found.accuracy == (table.obs["region"].astype(str) == table.obs["region_transferred"]).mean()
    assert found.accuracy > 0.9


def test_no_spot_votes_on_itself():
    table = make_slice(0, 60)
    table.obsm["X_inspire"] = np.repeat([[0.0], [1.0]], 30, axis=0).astype(np.float32)
    table.obs["kind"] = ["odd", *["even"] * 29, *["low"] * 30]
    found = tl.label_transfer(table, "kind", n_neighbors=3, held_out=0)
    assert found.labels[0] == "even"
    assert (found.labels[30:] == "low").all()


def test_chunks_change_nothing(small, monkeypatch):
    whole = tl.label_transfer(str(small), "region", key_added="whole")
    monkeypatch.setattr("atlasnmf.store.runs.RUN_SPOTS", 64)
    parts = tl.label_transfer(str(small), "region", key_added="parts")
    np.testing.assert_array_equal(whole.labels.codes, parts.labels.codes)
    assert whole.held_out_accuracy == parts.held_out_accuracy


def test_labels_go_along_matches_both_ways(half):
    path, _ = half
    first, second = (spatialdata.read_zarr(path).tables[name] for name in ("slice_1", "slice_2"))
    one, two = first.obs_names, second.obs_names
    add_matches(
        path, [(one[0], two[5], 0.9, True), (one[1], two[5], 0.3, True), (one[2], two[6], 1.0, False)]
    )
    found = tl.label_transfer(str(path), "region", matches="spatialfuser_matches")
    region = first.obs["region"].astype(str)
    votes = pd.Series([0.9, 0.3], [region.iloc[0], region.iloc[1]]).groupby(level=0).sum()
    assert found.labels[240 + 5] == votes.idxmax()
    assert found.confidence[240 + 5] == pytest.approx(votes.max() / 1.2)
    assert found.n_labelled == 1
    back = tl.label_transfer(
        str(path), "age", matches="spatialfuser_matches", source="slice_2", target="slice_1"
    )
    assert back.n_labelled == 2
    assert back.labels[0] == "3.0"


def test_shares_of_matched_spots_and_their_partners(small):
    first, second = (spatialdata.read_zarr(small).tables[name] for name in ("slice_1", "slice_2"))
    pairs = [(first.obs_names[i], second.obs_names[i], 1.0, i % 4 != 0) for i in range(100)]
    add_matches(small, pairs)
    found = tl.match_summary(str(small), "region").set_index(["slice", "label"])
    status = spatialdata.read_zarr(small).tables["slice_2"].obs["spatialfuser_matches_summary_status"]
    assert status.iloc[:5].tolist() == ["failed", "passed", "passed", "passed", "failed"]
    assert (status.iloc[100:] == "unmatched").all()
    regions = [t.obs["region"].astype(str).to_numpy() for t in (first, second)]
    passed = np.array([i for i in range(100) if i % 4])
    for number, name in enumerate(("slice_1", "slice_2")):
        for label in ("r0", "r1", "r2"):
            row, own = found.loc[name, label], regions[number] == label
            assert row["n_spots"] == own.sum()
            assert row["matched"] == pytest.approx(own[:100].sum() / own.sum())
            assert row["passed"] == pytest.approx(own[passed].sum() / own.sum())
            assert row["unmatched"] == pytest.approx(1 - row["passed"])
            ends = passed[own[passed]]
            other = pd.Series(regions[1 - number][ends]).value_counts()
            assert row["purity"] == pytest.approx(other.max() / len(ends))
            reached = (regions[1 - number][ends] == row["partner"]).sum()
            assert row["coverage"] == pytest.approx(reached / (regions[1 - number] == row["partner"]).sum())
            assert row["agreement"] == pytest.approx((regions[1 - number][ends] == label).mean())


def test_proportions_by_slice_and_by_stage(small):
    shares = tl.proportions(str(small), "region")
    table = spatialdata.read_zarr(small).tables["slice_2"]
    expected = table.obs["region"].value_counts(normalize=True)
    for label in ("r0", "r1", "r2"):
        assert shares.loc["slice_2", label] == pytest.approx(expected[label])
    by_age = tl.proportions(str(small), "region", by="age", key_added="ages")
    assert list(by_age.index) == ["2.0", "3.0"]
    np.testing.assert_allclose(by_age.loc["3.0"], shares.loc["slice_2"])
    stored = spatialdata.read_zarr(small).tables["slice_1"].uns["ages"]
    np.testing.assert_allclose(stored["shares"], by_age)


def test_markers_tell_their_regions_better_when_denoised(small):
    from sklearn.metrics import roc_auc_score

    markers = {f"r{i}": SETS[f"region_{i}"] for i in range(3)}
    found = tl.marker_auc(str(small), "region", markers)
    assert (found["after"] > found["before"]).mean() > 0.8
    sdata = spatialdata.read_zarr(small)
    both = anndata.concat([sdata.tables["slice_1"], sdata.tables["slice_2"]])
    counts = np.asarray(both.X.todense(), float)
    logs = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    row = found.iloc[3]
    at = both.var_names.get_loc(row["gene"])
    assert row["before"] == pytest.approx(roc_auc_score(both.obs["region"] == row["label"], logs[:, at]))
    purity = tl.purity_coverage(str(small), "region", markers, quantiles=[2 / 3], source="inspire")
    assert (purity[["purity", "coverage"]] > 0.85).all(axis=None)


def test_elections_need_votes():
    weights = np.array([[1.0, 2.0, 1.5], [0, 0, 0]])
    codes, share = _elect(weights, np.array([[0, 1, 0], [1, 1, 1]]), 2)
    assert codes.tolist() == [0, -1]
    assert share[0] == pytest.approx(2.5 / 4.5)
    assert np.isnan(share[1])


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda s: tl.label_transfer(s, "regions"), BadInput, "did you mean 'region'"),
        (lambda s: tl.label_transfer(s, "region", "X_inspyre"), BadInput, "did you mean 'X_inspire'"),
        (lambda s: tl.label_transfer(s, "region", "X_spatialfuser"), BadInput, "fit"),
        (lambda s: tl.label_transfer(s, "region", source="slice_9"), BadOption, "did you mean"),
        (lambda s: tl.label_transfer(s, "region", n_neighbors=0), BadOption, "at least 1"),
        (lambda s: tl.label_transfer(s, "region", matches="spatialfuser_matches"), BadInput, "no table"),
        (lambda s: tl.match_summary(s, "region"), BadInput, "no table 'spatialfuser_matches'"),
        (lambda s: tl.match_summary(s, "region", matches="slice_1"), BadInput, "no table of matches"),
        (lambda s: tl.proportions(s, "domains"), BadInput, "no obs column 'domains'"),
        (lambda s: tl.proportions(s, "region", by="ages"), BadInput, "did you mean 'age'"),
        (lambda s: tl.marker_auc(s, "region", {"nowhere": ["g00"]}), BadInput, "no label 'nowhere'"),
        (lambda s: tl.marker_auc(s, "region", {"r0": ["Afp"]}), BadInput, "share no gene"),
        (lambda s: tl.marker_auc(s, "region", {"r0": ["g00"]}, after="siid"), BadOption, "there are inspire"),
        (lambda s: tl.purity_coverage(s, "region", {"r0": ["g00"]}, quantiles=[2]), BadOption, "between"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_the_store(untouched, call, error, words):
    with pytest.raises(error, match=words):
        call(str(untouched))


def test_one_slice_without_any_label_is_said(tmp_path):
    table = make_slice(1, 80)
    table.obs["none"] = pd.Categorical([None] * 80, categories=["a"])
    path = make_store(tmp_path / "one.zarr", only=table)
    before = bytes_of(path)
    with pytest.raises(BadInput, match="has no value"):
        tl.label_transfer(str(path), "none")
    with pytest.raises(BadInput, match="has no value"):
        tl.proportions(str(path), "none")
    assert bytes_of(path) == before
