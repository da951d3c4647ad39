"""Fits of other atlases and forms: presets, encoders, gene unions, slice keys, data in memory, new slices."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import zarr
from small_stores import (
    N_GENES,
    Stops,
    assert_same_bits,
    build,
    call,
    fit_options,
    make_table,
    ok,
    refused,
    results,
    tree_hash,
)

import atlasnmf as an
from atlasnmf.errors import BadInput, BadOption, Interrupted
from atlasnmf.events import SILENT, Silent

mpl.use("agg")
Copy = Callable[..., Path]
SMALL: dict[str, Any] = {"n_factors": 4, "steps": 3, "batch_spots": 64, "hidden": 16, "encoder": "lgcn"}


def small(**params: Any) -> Any:
    return an.Inspire(**(SMALL | params))


@pytest.mark.parametrize("encoder", ["lgcn", "gat"])
@pytest.mark.parametrize("preset", ["default", "published"])
def test_presets_and_encoders(copy: Copy, preset: str, encoder: str) -> None:
    store = copy()
    options = ["--preset", preset, "--encoder", encoder, "--n-factors", "4", "--steps", "2"]
    ok("fit", "inspire", str(store), *options, "--hidden", "16", "--batch-spots", "100", "--workers", "1")
    found = results(store)
    assert len(found) == 8
    assert all(np.isfinite(value).all() for value in found.values())
    stages = json.loads(ok("info", str(store), "--json"))["stages"]
    assert ("smoothed" in json.dumps(stages)) == (preset == "published" and encoder == "lgcn")


def test_union_keeps_genes_that_a_slice_lacks(tmp_path: Path) -> None:
    second = make_table(1)
    second.var_names = [*second.var_names[:-6], *(f"other{i}" for i in range(6))]
    store = build(tmp_path, make_table(0), second)
    ok("fit", "inspire", str(store), *fit_options(steps=2), "--genes", "union")
    ok("fit", "inspire", str(store), *fit_options(steps=2), "--key-added", "shared")
    for table in ("slice_0", "slice_1"):
        union = np.isfinite(results(store)[f"{table}/inspire_loadings"]).all(axis=1)
        shared = np.isfinite(results(store, "shared")[f"{table}/shared_loadings"]).all(axis=1)
        assert union.sum() == N_GENES
        assert shared.sum() == N_GENES - 6


def test_gene_order_of_a_table_decides_nothing(tmp_path: Path, fitted: Path) -> None:
    shuffled = np.random.default_rng(3).permutation(N_GENES)
    store = build(tmp_path, make_table(0), make_table(1, gene_order=shuffled))
    ok("fit", "inspire", str(store), *fit_options())
    found, expected = results(store), results(fitted)
    expected["slice_1/inspire_loadings"] = expected["slice_1/inspire_loadings"][shuffled]
    assert_same_bits(found, expected)


def test_one_table_with_a_slice_key(tmp_path: Path, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atlasnmf.store import atlas as atlas_room

    both = anndata.concat({"slice_0": make_table(0), "slice_1": make_table(1)}, label="stage")
    mixed = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    mixed.obs["stage"] = pd.Categorical(mixed.obs["stage"], categories=["slice_0", "slice_1"])
    store = build(tmp_path, mixed)
    ok("fit", "inspire", str(store), *fit_options(), "--slice-key", "stage")
    found, expected = results(store), results(fitted)
    for key in ("X_inspire", "inspire_factors"):
        whole = np.concatenate([expected[f"slice_0/{key}"], expected[f"slice_1/{key}"]])
        rows = both.obs_names.get_indexer(mixed.obs_names)
        np.testing.assert_allclose(found[f"slice_0/{key}"], whole[rows], rtol=1e-3, atol=1e-4)
    info = json.loads(ok("info", str(store), "--json"))
    assert info["slice_key"] == "stage"
    assert [part["name"] for part in info["slices"]] == ["slice_0", "slice_1"]
    assert "2 slices by obs['stage']" in ok("info", str(store))
    opened = []
    original = atlas_room.open_atlas
    monkeypatch.setattr(
        atlas_room, "open_atlas", lambda *given, **named: opened.append(named) or original(*given, **named)
    )
    ok("report", str(store), "-o", str(tmp_path / "report.html"))
    assert {"slice_key": "stage"} in opened


def test_anndata_and_spatialdata_in_memory() -> None:
    import spatialdata
    from spatialdata.models import TableModel

    both = anndata.concat({"a": make_table(0), "b": make_table(1)}, label="stage")
    atlas = an.open_atlas(both, slice_key="stage")
    fit = small().fit(atlas, device="cpu", workers=1)
    assert "X_inspire" not in both.obsm
    written = fit.write()
    assert written["table"][:2] == ["X_inspire", "inspire_factors"]
    assert both.obsm["X_inspire"].shape == (440, 32)
    np.testing.assert_allclose(both.obsm["inspire_factors"].sum(axis=1), 1, atol=1e-5)
    assert both.varm["inspire_loadings"].shape == (N_GENES, 4)
    assert both.uns["inspire"]["status"] == "done"
    an.tl.domains(atlas, "X_inspire", n_domains=3)
    assert both.obs["domains"].nunique() == 3
    tables = {name: TableModel.parse(make_table(seed)) for seed, name in enumerate("ab")}
    sdata = spatialdata.SpatialData(tables=tables)
    small().fit(an.open_atlas(sdata), device="cpu", workers=1).write()
    inmemory = np.concatenate([sdata.tables[name].obsm["X_inspire"] for name in "ab"])
    np.testing.assert_allclose(inmemory, both.obsm["X_inspire"], rtol=1e-3, atol=1e-4)


def test_patience_ends_a_fit_early_and_a_resumed_one_at_the_same_step(copy: Copy) -> None:
    def fit(store: Path, events: Any) -> Any:
        model = small(steps=2000, learning_rate=1e-9)
        atlas = an.open_atlas(store)
        options: dict[str, Any] = {"device": "cpu", "workers": 1, "checkpoint_every": 20}
        return model.fit(atlas, patience=1, events=events, **options)

    whole, torn = copy("whole.zarr"), copy("torn.zarr")
    told = Notes()
    undisturbed = fit(whole, told)
    n_steps = len(undisturbed.history["loss"])
    assert 50 < n_steps < 2000
    assert n_steps % 50 == 0
    assert [note for note in told.notes if f"stopped after step {n_steps}" in note]
    with pytest.raises(Interrupted, match="after step 30"):
        fit(torn, Stops(step=30))
    resumed = fit(torn, SILENT)
    assert len(resumed.history["loss"]) == n_steps
    undisturbed.write()
    resumed.write()
    assert_same_bits(results(torn), results(whole))


class Notes(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        """Keep the note."""
        self.notes.append(message)


def test_features_replaced_by_a_later_prepare_are_made_again(copy: Copy, tmp_path: Path) -> None:
    store, whole = copy(), copy("whole.zarr")
    small().fit(an.open_atlas(whole), workers=1).write()
    atlas = an.open_atlas(store)
    fit = small().fit(atlas, workers=1)
    an.prepare(atlas, min_genes=3, min_spots=30, n_components=5)
    fit.write()
    assert_same_bits(results(store), results(whole))


def test_load_fit_and_transform(copy: Copy, tmp_path: Path) -> None:
    trained, same = copy(), copy("same.zarr")
    fit = small().fit(an.open_atlas(trained), workers=1, device="cpu")
    with pytest.raises(BadInput, match="no finished fit"):
        an.load_fit(str(trained))
    fit.write()
    loaded = an.load_fit(str(trained))
    assert len(loaded.history["loss"]) == 3
    assert loaded.wait_share == 0
    # The same slices again: the same rows, genes and components, centred on the same means.
    written = loaded.transform(an.open_atlas(same))
    assert written["slice_0"] == ["X_inspire", "inspire_factors", "inspire_loadings", "inspire"]
    found, expected = results(same), results(trained)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
    with pytest.raises(BadOption, match="overwrite"):
        loaded.transform(an.open_atlas(same))
    # One new slice, genes in another order and some missing.
    order = np.random.default_rng(1).permutation(N_GENES)[:60]
    new = build(tmp_path / "new", make_table(5, n_spots=150, gene_order=order))
    loaded.transform(an.open_atlas(new), key_added="new")
    factors = results(new, "new")["slice_0/new_factors"]
    assert factors.shape == (150, 4)
    np.testing.assert_allclose(factors.sum(axis=1), 1, atol=1e-5)
    uns = zarr.open_group(str(new), mode="r")["tables/slice_0/uns/new"]
    assert uns["status"][()] == "transformed"
    other = build(tmp_path / "other", make_table(6))
    renamed = make_table(6)
    renamed.var_names = [f"x{i}" for i in range(N_GENES)]
    other = build(tmp_path / "renamed", renamed)
    with pytest.raises(BadInput, match="0% of the 64 genes"):
        loaded.transform(an.open_atlas(other))


def test_a_new_slice_of_the_trained_store_is_embedded_beside_the_others(tmp_path: Path) -> None:
    store = build(tmp_path, make_table(0), make_table(1), make_table(2))
    fit = small().fit(an.open_atlas(store, tables=["slice_0", "slice_1"]), workers=1)
    fit.write()
    before = results(store)
    fit.transform(an.open_atlas(store, tables="slice_2"))
    found = results(store)
    assert np.isfinite(found["slice_2/inspire_factors"]).all()
    assert_same_bits({name: found[name] for name in before}, before)


def test_estimators_refuse_and_describe() -> None:
    for wrong, words in (
        ({"n_facotrs": 3}, "--n-factors"),
        ({"n_factors": 1}, "at least 2"),
        ({"preset": "quick"}, "published"),
        ({"steps": -1}, "--steps"),
    ):
        with pytest.raises(BadOption, match=words):
            an.Inspire(**wrong)
    atlas = an.open_atlas(make_table(0))
    with pytest.raises(BadInput, match="1 slice"):
        an.Inspire().fit(atlas)
    both = an.open_atlas(anndata.concat({"a": make_table(0), "b": make_table(1)}, label="s"), slice_key="s")
    with pytest.raises(BadOption, match="--device"):
        an.Inspire().fit(both, device="tpu")
    with pytest.raises(BadOption, match="regoin"):
        an.Inspire().fit(both, labels="regoin")
    both.tables[0].adata.obs["cell"] = [f"cell {i}" for i in range(both.n_spots)]
    both.tables[0].adata.obs["organ"] = "brain"
    both.tables[0].adata.obs["pair"] = [f"pair {i // 2}" for i in range(both.n_spots)]
    of_all = f"{both.n_spots} different labels on {both.n_spots} spots name spots"
    for column, said in ("cell", of_all), ("organ", "all spots have the same label"):
        with pytest.raises(BadOption, match=f"--labels {column}: {said}"):
            an.Inspire().fit(both, labels=column)
    with pytest.raises(BadOption, match="budget"):  # what is looked at after the labels, of two spots each
        an.Inspire().fit(both, labels="pair", memory_budget="300MB")
    with pytest.raises(BadOption, match="--learning-rate"):
        an.Inspire().fit(both, learning_rate=-1)
    assert "Inspire" in dir(an)
    assert an.Inspire.__doc__.startswith("Integrate slices")
    with pytest.raises(AttributeError, match="Nothing"):
        an.Nothing  # noqa: B018


def test_one_slice_without_adversaries(tmp_path: Path) -> None:
    store = build(tmp_path, make_table(0))
    ok("fit", "inspire", str(store), *fit_options(steps=2), "--gan-weight", "0")
    found = results(store)
    assert set(found) == {"slice_0/X_inspire", "slice_0/inspire_factors", "slice_0/inspire_loadings"}


def test_baseline_domains_and_figures(copy: Copy) -> None:
    import matplotlib.pyplot as plt

    store = copy()
    ok("fit", "inspire", str(store), *fit_options())
    atlas = an.open_atlas(store)
    an.tl.baseline(atlas, n_components=6)
    atlas = an.open_atlas(store)
    scores = atlas.tables[0].obsm("X_smoothed_pca")
    assert scores.shape == (220, 6)
    # centred in each slice; float32 sums of 220 scores
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-3 * np.abs(scores).max())
    with pytest.raises(BadOption, match="overwrite"):
        an.tl.baseline(atlas)
    an.tl.domains(atlas, "X_smoothed_pca", n_domains=3)
    atlas = an.open_atlas(store)
    for axes in (an.pl.factors(atlas, "inspire"), an.pl.domains(atlas), an.pl.history(atlas, "inspire")):
        figures = {axis.figure for axis in np.ravel(axes)}
        assert len(figures) == 1
        plt.close(figures.pop())


def test_cut_off_between_the_last_write_and_its_note(
    copy: Copy, fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlasnmf.store.ledger import Ledger

    store = copy()
    finish = Ledger.finish

    def killed(self: Ledger, stage: str, key: str, **rest: Any) -> None:
        if stage.startswith("fit"):
            raise KeyboardInterrupt
        finish(self, stage, key, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", killed)
        code, _, err = call("fit", "inspire", str(store), *fit_options())
    assert code == 3
    assert "atlasnmf resume" in err
    assert results(store)  # they are there, but nobody knows
    ok("resume", str(store))
    assert_same_bits(results(store), results(fitted))
    assert "nothing to resume" in refused("resume", str(store))
    assert an.load_fit(str(store)).history["loss"].shape == (6,)


@pytest.mark.parametrize(
    "options, what",
    [
        (("inspire", "--n-factors", "4", "--steps", "2"), "reading batches for a step"),
        (("stanmf", "--ranks", "2", "--replicates", "2"), "stanmf of"),
        (("siid", "--fine", "slice_0", "--coarse", "slice_1", "--n-factors", "2"), "siid of"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_budget_too_small_to_read_by_is_refused_before_any_work(
    tmp_path: Path, options: tuple[str, ...], what: str
) -> None:
    store = build(tmp_path, make_table(0), make_table(1))
    before = tree_hash(tmp_path)
    model, *rest = options
    line = refused("fit", model, str(store), *rest, "--memory-budget", "680MB")
    assert what in line
    assert "more than the budget" in ok("estimate", model, str(store), *rest, "--memory-budget", "680MB")
    assert tree_hash(tmp_path) == before
    named = re.search(r"--memory-budget (\S+)", line)
    assert named is not None
    ok("fit", model, str(store), *rest, "--memory-budget", named[1])
