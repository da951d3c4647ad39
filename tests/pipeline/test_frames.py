"""SpatialFuser from the command line's options to the store: slices, kinds of features, frames, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import spatialdata
from small_stores import N_SPOTS, build, make_table, ok, tree_hash

from atlasnmf import models, pipeline
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.events import Silent
from atlasnmf.options import AtlasOptions, PrepareOptions, RunOptions
from atlasnmf.pipeline.frames import kinds_of
from atlasnmf.pipeline.request import FitRequest
from atlasnmf.store.atlas import open_atlas

SHORT = {"pretrain_steps": 3, "fuse_steps": 4, "match_every": 2}


class Heard(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def run(
    store: Path,
    *,
    atlas: dict[str, Any] | None = None,
    prepare: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    events: Silent | None = None,
    **params: Any,
) -> Any:
    given = models.params_with_preset("spatialfuser", "default", SHORT | params)
    request = FitRequest(
        "spatialfuser",
        str(store),
        given,
        PrepareOptions(**prepare or {}),
        AtlasOptions(**atlas or {}),
        RunOptions(**{"device": "cpu", "workers": 1} | (options or {})),
    ).settled()
    return pipeline.fit(request, events=events or Silent())


def other_features(table: anndata.AnnData, n_features: int = 24) -> anndata.AnnData:
    """The same spots seen by another modality: other names, other numbers."""
    part = table[:, :n_features].copy()
    part.var_names = [f"protein_{i}" for i in range(n_features)]
    part.X = part.X * 3
    return part


def matches_of(store: Path) -> Any:
    return spatialdata.read_zarr(store).tables["spatialfuser_matches"].obs


def test_matches_name_spots_of_both_tables(tmp_path: Path) -> None:
    store = build(tmp_path)
    outcome = run(store)
    found = matches_of(store)
    assert set(found.columns) >= {"source_table", "source", "target_table", "target", "score", "passed"}
    assert len(found) > N_SPOTS // 4
    tables = spatialdata.read_zarr(store).tables
    for end in ("source", "target"):
        for name, rows in found.groupby(f"{end}_table", observed=True):
            assert rows[end].isin(tables[name].obs_names).all()
    assert set(found["source_table"]) == {"slice_0"}
    assert set(found["target_table"]) == {"slice_1"}
    assert outcome.record()["quality"]["links"][0]["n_pairs"] == len(found)


def test_two_of_three_slices_in_the_order_named(tmp_path: Path) -> None:
    store = build(tmp_path, *(make_table(seed) for seed in range(3)))
    before = tree_hash(store / "tables" / "slice_1")
    run(store, atlas={"slices": ("slice_2", "slice_0")})
    assert tree_hash(store / "tables" / "slice_1") == before
    assert set(matches_of(store)["source_table"]) == {"slice_2"}
    assert set(matches_of(store)["target_table"]) == {"slice_0"}


def test_lists_on_the_command_line(tmp_path: Path) -> None:
    store = build(tmp_path, *(make_table(seed) for seed in range(3)))
    steps = ["--pretrain-steps", "2", "--fuse-steps", "2", "--no-start", "--hidden", "12,8", "--heads", "2"]
    ok("fit", "spatialfuser", str(store), "--slices", "slice_2,slice_0", "--workers", "1", *steps)
    assert set(matches_of(store)["target_table"]) == {"slice_0"}
    assert spatialdata.read_zarr(store).tables["slice_0"].obsm["X_spatialfuser"].shape == (N_SPOTS, 8)
    assert (
        "--slices slice_2,slice_0"
        in spatialdata.read_zarr(store).tables["slice_0"].uns["spatialfuser"]["command"]
    )


def test_slices_of_one_table(tmp_path: Path) -> None:
    table = anndata.concat({f"day {i}": make_table(i) for i in range(3)}, label="day", index_unique="-")
    store = build(tmp_path, table)
    run(store, atlas={"slice_key": "day", "slices": ("day 0", "day 2")})
    stored = spatialdata.read_zarr(store).tables["slice_0"]
    rows = np.isfinite(stored.obsm["X_spatialfuser"]).all(axis=1)
    assert rows.tolist() == (stored.obs["day"] != "day 1").tolist()


def test_one_slice_is_embedded_alone(tmp_path: Path) -> None:
    store = build(tmp_path, make_table(0))
    run(store)
    stored = spatialdata.read_zarr(store).tables["slice_0"]
    assert np.isfinite(stored.obsm["X_spatialfuser"]).all()
    np.testing.assert_allclose(stored.obsm["spatialfuser_aligned"], stored.obsm["spatial"])
    assert len(matches_of(store)) == 0


def test_slices_may_have_names_no_file_can_have(tmp_path: Path) -> None:
    both = anndata.concat([make_table(0), make_table(1)], index_unique="-")
    both.obs["section"] = np.repeat(["..", "left/right"], N_SPOTS)
    store = build(tmp_path, both)
    run(store, atlas={"slice_key": "section"})
    (table,) = (table for name, table in spatialdata.read_zarr(store).tables.items() if "matches" not in name)
    assert table.uns["spatialfuser"]["frame"]["1"]["slice"] == "left/right"
    assert table.uns["spatialfuser"]["frame"]["1"]["onto"] == ".."
    assert np.isfinite(table.obsm["X_spatialfuser"]).all()


def test_a_height_that_all_spots_share_changes_nothing(tmp_path: Path) -> None:
    flat, high = ([make_table(seed) for seed in range(2)] for _ in range(2))
    for table in high:
        table.obsm["spatial"] = np.column_stack([table.obsm["spatial"], np.full(N_SPOTS, 7.0)])
    stores = [build(tmp_path, *tables, name=f"{i}.zarr") for i, tables in enumerate((flat, high))]
    for store in stores:
        run(store)
    for name in ("slice_0", "slice_1"):
        one, other = (spatialdata.read_zarr(store).tables[name].obsm for store in stores)
        np.testing.assert_allclose(one["spatialfuser_aligned"], other["spatialfuser_aligned"], atol=1e-9)


@pytest.mark.parametrize("n_spots", [1, 9])
def test_a_slice_too_small_to_be_laid_anywhere_is_matched_by_features(tmp_path: Path, n_spots: int) -> None:
    store = build(tmp_path, make_table(0), make_table(1, n_spots=n_spots))
    heard = Heard()
    run(store, prepare={"min_spots": 1}, events=heard)
    assert any("by features alone" in text for text in heard.warnings)
    stored = spatialdata.read_zarr(store).tables["slice_1"]
    assert np.isfinite(stored.obsm["X_spatialfuser"]).all()
    np.testing.assert_array_equal(stored.obsm["spatialfuser_aligned"], stored.obsm["spatial"])


def test_three_slices_make_a_chain_or_all_go_to_the_first(tmp_path: Path) -> None:
    store = build(tmp_path, *(make_table(seed) for seed in range(3)))
    run(store)
    chain = set(zip(matches_of(store)["source_table"], matches_of(store)["target_table"], strict=True))
    assert chain == {("slice_0", "slice_1"), ("slice_1", "slice_2")}
    run(store, partners="first", options={"overwrite": True})
    star = set(zip(matches_of(store)["source_table"], matches_of(store)["target_table"], strict=True))
    assert star == {("slice_0", "slice_1"), ("slice_0", "slice_2")}


def test_two_modalities_without_a_common_name(tmp_path: Path) -> None:
    store = build(tmp_path, make_table(0), other_features(make_table(1)))
    atlas = open_atlas(store)
    assert kinds_of(atlas, "auto").tolist() == [0, 1]
    outcome = run(store, register_by="none")  # bands of tissue look the same from both ends
    assert outcome.fit.prepared.facts.components.shape[0] == 2
    found = matches_of(store)
    assert len(found) > 20
    for name, table in spatialdata.read_zarr(store).tables.items():
        if not name.endswith("matches"):
            assert np.isfinite(table.obsm["X_spatialfuser"]).all()


@pytest.mark.parametrize("features", ["scores", "genes"])
def test_denoised_genes(tmp_path: Path, features: str) -> None:
    store = build(tmp_path)
    form = (
        {} if features == "scores" else {"features": "genes", "start": False, "hidden": (16, 8), "heads": 2}
    )
    run(store, denoise="g003,g001", **form | {"pretrain_steps": 150, "learning_rate": 0.01})
    stored = spatialdata.read_zarr(store).tables["slice_0"]
    found = stored.obsm["spatialfuser_denoised"]
    assert list(stored.uns["spatialfuser"]["denoised_genes"]) == ["g003", "g001"]
    counts = np.asarray(stored.X.todense())
    share = np.log1p(counts / counts.sum(1, keepdims=True) * 1e3)[:, [3, 1]]
    region = stored.obs["region"]
    truth = np.stack([share[region == name].mean(0) for name in region], 0)
    for column in range(2):
        # closer to the mean of the region, which is what was sampled from, than the counts are
        assert np.mean((found - truth)[:, column] ** 2) < 0.5 * np.mean((share - truth)[:, column] ** 2)


def test_tiles_when_the_budget_asks_for_them(tmp_path: Path) -> None:
    store = build(tmp_path)
    run(store, batch_spots=64)
    assert np.isfinite(spatialdata.read_zarr(store).tables["slice_0"].obsm["X_spatialfuser"]).all()


def test_a_small_radius_leaves_spots_to_the_dustbin_and_counts_them(tmp_path: Path) -> None:
    moved = make_table(1)
    moved.obsm["spatial"] = moved.obsm["spatial"] + [0.4, 0.0]
    moved = moved[: N_SPOTS // 2].copy()
    store = build(tmp_path, make_table(0), moved)
    outcome = run(store, max_distance=0.6, register_by="none")
    (link,) = outcome.record()["quality"]["links"]
    assert 80 < link["without_candidates"] < N_SPOTS
    assert link["unmatched"] > 0.3


@pytest.mark.parametrize(
    ("tables", "params", "atlas", "error", "message"),
    [
        ([0], {"heads": 80, "components": 80, "hidden": (80,)}, {}, BadInput, "64 features"),
        ([0, 1], {"denoise": "g0001"}, {}, BadOption, "did you mean"),
        ([0, 1], {"alpha": 0.2, "batch_spots": 64}, {}, BadOption, "--batch-spots"),
        ([0, 1], {}, {"slices": ("slice_0", "slice_7")}, BadOption, "slice_7"),
        ([0, 1], {}, {"slices": ("slice_0", "slice_0")}, BadOption, "once"),
        (["other", 1], {"encoders": "shared"}, {}, BadInput, "no feature in common"),
        (
            [0, 1],
            {"register_by": "none", "max_distance": 1e-9, "shift": True},
            {},
            BadInput,
            "radius|distance",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_changes(
    tmp_path: Path, tables: list[Any], params: dict[str, Any], atlas: dict[str, Any], error: Any, message: str
) -> None:
    made = [other_features(make_table(9)) if name == "other" else make_table(name) for name in tables]
    if params.pop("shift", False):
        made[1].obsm["spatial"] = made[1].obsm["spatial"] + 1000.0
    store = build(tmp_path, *made)
    before = tree_hash(store)
    with pytest.raises(error, match=message):
        run(store, atlas=atlas, **params)
    assert tree_hash(store) == before


@pytest.mark.parametrize(
    "params",
    [
        {"hidden": (30, 8), "heads": 4},
        {"components": 2, "heads": 4, "hidden": (8,)},
        {"batch_spots": 3},
        {"tau": 0},
        {"hidden": ()},
        {"alpha": 0.2, "denoise": "all"},
    ],
)
def test_options_that_do_not_go_together(params: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match="--"):
        models.params("spatialfuser")(**params)


def test_modalities_without_a_frame_are_not_matched(tmp_path: Path) -> None:
    rng, other = np.random.default_rng(5), other_features(make_table(1))
    other.obsm["spatial"] = rng.uniform(0, 15, (N_SPOTS, 2))  # regions torn apart: nothing to lay on anything
    heard = Heard()
    outcome = run(build(tmp_path, make_table(0), other), events=heard, register_by="features")
    assert any("not matched" in message for message in heard.warnings), heard.warnings
    assert outcome.record()["quality"]["links"][0]["n_pairs"] == 0
    assert len(matches_of(tmp_path / "store.zarr")) == 0


def test_positions_in_other_units_are_said(tmp_path: Path) -> None:
    other = other_features(make_table(1))
    other.obsm["spatial"] = other.obsm["spatial"] * 1000.0
    heard = Heard()
    run(build(tmp_path, make_table(0), other), events=heard)
    assert any("unit" in message for message in heard.warnings), heard.warnings


def test_a_graph_in_pieces(tmp_path: Path) -> None:
    torn = make_table(0)
    torn.obsm["spatial"] = torn.obsm["spatial"] + 500.0 * (np.arange(N_SPOTS) % 4 == 0)[:, None]
    store = build(tmp_path, torn, make_table(1))
    run(store, register_by="none")
    stored = spatialdata.read_zarr(store).tables["slice_0"]
    assert np.isfinite(stored.obsm["X_spatialfuser"]).all()


def test_new_spots_are_refused(tmp_path: Path) -> None:
    outcome = run(build(tmp_path))
    with pytest.raises(BadOption, match="fit it to a store"):
        outcome.fit.transform(open_atlas(tmp_path / "store.zarr"), key_added="other")
