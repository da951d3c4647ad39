"""Every model keeps every promise: seed, resume, schema, order of rows, budget, an untouched store."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from atlasnmf import models, pipeline
from atlasnmf.errors import BadOption, Interrupted
from atlasnmf.events import Silent
from atlasnmf.options import PrepareOptions, RunOptions
from atlasnmf.pipeline import FitRequest
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.counts import CountSource
from atlasnmf.store.ingest import ingest

N_SPOTS, N_GENES = 160, 48


@dataclass(frozen=True)
class Promise:
    """What a model's results must be; K stands for the number of factors."""

    params: dict[str, Any]
    obsm: dict[str, int | str]
    varm: dict[str, int | str]
    uns: tuple[str, ...]
    simplex_rows: tuple[str, ...] = ()
    simplex_columns: tuple[str, ...] = ()
    non_negative: tuple[str, ...] = ()
    #: Columns of obs, and results that one table alone gets.
    obs: tuple[str, ...] = ()
    only: tuple[tuple[str, str], ...] = ()
    #: Results that no seed decides, and new tables.
    steady: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()

    def has(self, table: str, name: str) -> bool:
        return dict(self.only).get(name, table) == table


PROMISES = {
    "inspire": Promise(
        params={"n_factors": 4, "steps": 8, "batch_spots": 48, "hidden": 16},
        obsm={"X_inspire": 32, "inspire_factors": "K", "inspire_discriminator": 1},
        varm={"inspire_loadings": "K"},
        uns=("gamma",),
        simplex_rows=("inspire_factors",),
        simplex_columns=("inspire_loadings",),
        non_negative=("inspire_factors", "inspire_loadings"),
    ),
    "siid": Promise(
        params={
            "n_factors": 4,
            "fine": "a",
            "coarse": "b",
            "passes": 8,
            "restarts": 2,
            "restart_passes": 3,
            "out_of_panel": "none",
        },
        obsm={"siid_factors": "K", "siid_proportions": "K"},
        varm={"siid_loadings": "K"},
        uns=("platform_scaling", "links", "loss"),
        simplex_rows=("siid_factors", "siid_proportions"),
        simplex_columns=("siid_loadings",),
        non_negative=("siid_factors", "siid_proportions", "siid_loadings"),
        obs=("siid_type", "siid_depth"),
        only=(("siid_factors", "a"), ("siid_proportions", "b")),
    ),
    "spatialfuser": Promise(
        params={"components": 6, "pretrain_steps": 4, "fuse_steps": 4, "match_every": 2, "batch_spots": 48},
        obsm={"X_spatialfuser": 6, "spatialfuser_aligned": 2},
        varm={},
        uns=("links", "frame"),
        steady=("spatialfuser_aligned",),
        tables=("spatialfuser_matches",),
    ),
    "stanmf": Promise(
        params={"ranks": (3, 4), "replicates": 2, "max_iterations": 12},
        obsm={"stanmf_patterns": "K"},
        varm={"stanmf_coefficients": "K"},
        uns=("ranks", "instability_hungarian_mean", "instability_hungarian_sd", "rank"),
        non_negative=("stanmf_patterns", "stanmf_coefficients"),
    ),
}
#: What every model leaves in uns.
RECORDED = {"params", "seed", "status", "versions", "history", "command", "quality", "slices", "written"}

every_model = pytest.mark.parametrize("model", models.available())


def make_table(seed: int) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(16), np.arange(10)), axis=-1).reshape(-1, 2).astype(float)
    profile = np.random.default_rng(7).gamma(0.6, 2.0, (4, N_GENES))
    counts = rng.poisson(profile[(grid[:, 0] // 4).astype(int)]).astype(np.float32)
    counts[5] = 0  # a spot without counts gets NaN results
    return anndata.AnnData(
        scipy.sparse.csr_matrix(counts),
        obs=pd.DataFrame({"note": np.arange(N_SPOTS)}, index=[f"s{seed}_{i}" for i in range(N_SPOTS)]),
        var=pd.DataFrame(index=[*(f"g{i:02d}" for i in range(N_GENES - 1)), f"only_{seed}"]),
        obsm={"spatial": grid},
    )


def write_store(folder: Path, *tables: anndata.AnnData) -> Path:
    paths = []
    for name, table in zip("ab", tables, strict=True):
        table.write_h5ad(folder / f"{name}.h5ad")
        paths.append(str(folder / f"{name}.h5ad"))
    ingest(paths, str(folder / "store.zarr"))
    return folder / "store.zarr"


def request_of(model: str, store: Path, *, params: dict[str, Any] | None = None, **run: Any) -> FitRequest:
    given = PROMISES[model].params | (params or {})
    options = RunOptions(**({"device": "cpu", "workers": 1} | run))
    values = models.params_with_preset(model, "default", given)
    return FitRequest(model, str(store), values, PrepareOptions(), run=options).settled()


def results(store: Path, model: str, key: str | None = None) -> dict[str, np.ndarray]:
    promise, root, found = PROMISES[model], zarr.open_group(str(store), mode="r"), {}
    for table in "ab":
        for group, names in (("obsm", promise.obsm), ("varm", promise.varm)):
            for name in filter(partial(promise.has, table), names):
                written = name.replace(model, key or model)
                found[f"{table}/{name}"] = root[f"tables/{table}/{group}/{written}"][:]
    return found


def uns_of(store: Path, model: str) -> dict[str, Any]:
    return anndata.io.read_elem(zarr.open_group(str(store), mode="r")[f"tables/a/uns/{model}"])


def assert_same_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def tree(root: Path) -> dict[str, str]:
    """Hash of every file below a folder, by its path."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("clean"), make_table(0), make_table(1))


@pytest.fixture(scope="module")
def fitted(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A fitted store a model."""
    stores = {}
    for model in models.available():
        stores[model] = tmp_path_factory.mktemp(model) / "store.zarr"
        shutil.copytree(clean, stores[model])
        pipeline.fit(request_of(model, stores[model]))
    return stores


@pytest.fixture
def store(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "store.zarr"))


class StopAt(Silent):
    """Presses Ctrl-C in a step of training, or in the middle of writing the results."""

    def __init__(self, step: int | None = None, stage: str | None = None) -> None:
        self.step_to_stop, self.stage_to_stop = step, stage

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "spots") -> Iterator[Any]:
        def advance(n: int) -> None:
            if name == self.stage_to_stop:
                raise KeyboardInterrupt

        yield advance

    def metrics(self, record: dict[str, float | int | str]) -> None:
        if record["step"] == self.step_to_stop:
            raise KeyboardInterrupt


def test_every_model_has_promises() -> None:
    assert set(PROMISES) == set(models.available()), "write down what the new model promises"


@every_model
def test_same_seed_same_bits_other_seed_other_bits(model: str, store: Path, fitted: dict[str, Path]) -> None:
    """Under a key of its own, which is not written over unless asked."""
    request = request_of(model, store, key_added="mine")
    pipeline.fit(request)
    assert_same_bits(results(store, model, "mine"), results(fitted[model], model))
    root = zarr.open_group(str(store), mode="r")
    assert not [key for key in root["tables/a/obsm"] if model in key]
    before = tree(store)
    with pytest.raises(BadOption, match="--overwrite"):
        pipeline.fit(request)
    assert tree(store) == before
    pipeline.fit(request_of(model, store, key_added="mine", overwrite=True, seed=1))
    other = results(store, model, "mine")
    for name, value in results(fitted[model], model).items():
        steady = name.split("/")[1] in PROMISES[model].steady
        assert np.array_equal(value, other[name], equal_nan=True) == steady, name


@every_model
@pytest.mark.parametrize(
    "stop", [StopAt(step=1), StopAt(step=5), StopAt(stage="embed")], ids=["step 1", "step 5", "write"]
)
def test_interrupted_and_resumed_same_bits(
    model: str, stop: StopAt, store: Path, fitted: dict[str, Path]
) -> None:
    before = tree(store)
    with pytest.raises(Interrupted) as stopped:
        pipeline.fit(request_of(model, store, checkpoint_every=3), events=stop)
    assert stopped.value.resume_command == f"atlasnmf resume {store}"
    assert tree(store) == before
    outcome = pipeline.resume(str(store))
    assert_same_bits(results(store, model), results(fitted[model], model))
    assert len(outcome.fit.history["loss"]) == len(uns_of(fitted[model], model)["history"]["loss"])


@every_model
def test_residencies_give_the_same_bits(model: str, store: Path, fitted: dict[str, Path]) -> None:
    for place in ("disk", "host"):
        pipeline.fit(request_of(model, store, residency=place, key_added=place))
        assert_same_bits(results(store, model, place), results(fitted[model], model))


@every_model
def test_results_keep_the_schema(model: str, fitted: dict[str, Path]) -> None:
    promise, root = PROMISES[model], zarr.open_group(str(fitted[model]), mode="r")
    sizes = promise.params | {
        "K": promise.params.get("n_factors") or uns_of(fitted[model], model).get("rank")
    }
    for name, value in results(fitted[model], model).items():
        key = name.split("/")[1]
        promised = (promise.obsm | promise.varm)[key]
        n_rows = N_SPOTS if key in promise.obsm else N_GENES
        assert value.shape == (n_rows, sizes.get(promised, promised)), name
        usable = np.isfinite(value).all(axis=1)
        assert np.isnan(value[~usable]).all(), name
        # the spot without counts, and the gene that the other slice lacks
        assert np.flatnonzero(~usable).tolist() == ([5] if key in promise.obsm else [N_GENES - 1]), name
        if key in promise.non_negative:
            assert value[usable].min() >= 0, name
        if key in promise.simplex_rows:
            # float32 softmax: each row is off by a few rounding errors
            np.testing.assert_allclose(value[usable].sum(axis=1), 1, atol=1e-5, err_msg=name)
        if key in promise.simplex_columns:
            np.testing.assert_allclose(value[usable].sum(axis=0), 1, atol=1e-5, err_msg=name)
    for table in ("a", "b"):
        uns = anndata.io.read_elem(root[f"tables/{table}/uns/{model}"])
        assert uns.keys() >= RECORDED | set(promise.uns)
        assert uns["status"] == "done"
        assert int(uns["seed"]) == 0
        for name, value in promise.params.items():
            np.testing.assert_array_equal(uns["params"][name], value, err_msg=name)
        assert {"atlasnmf", "numpy", "python"} <= uns["versions"].keys()
        assert len(uns["history"]["loss"]) == promise.params.get("steps", len(uns["history"]["step"])) > 0
        assert str(uns["command"]).startswith(f"atlasnmf fit {model} ")


@every_model
def test_nothing_else_in_the_store_changes(model: str, clean: Path, fitted: dict[str, Path]) -> None:
    """Only new keys, the folders' listings and the consolidated metadata may differ."""
    before, after = tree(clean), tree(fitted[model])
    changed = {path for path, digest in before.items() if after.get(path) != digest}
    columns = PROMISES[model].obs
    listings = {f"tables/{table}/obs/zarr.json" for table in "ab"} if columns else set()
    assert changed <= {"zarr.json"} | listings, changed
    ours = {"obsm", "varm", "uns"} | ({"obs"} if columns else set())
    new = {tuple(path.split("/")[:4]) for path in after.keys() - before.keys()}
    new = {place for place in new if len(place) < 2 or place[1] not in PROMISES[model].tables}
    written = {name.split("/")[1] for name in results(fitted[model], model)} | {model, *columns}
    assert {(place[0], place[2]) for place in new} <= {("tables", group) for group in ours}
    assert {place[3] for place in new} <= written | {"zarr.json"}


@every_model
def test_results_follow_the_users_order_of_rows(model: str, tmp_path: Path, fitted: dict[str, Path]) -> None:
    """The working copy sorts spots by position, so the order of the user's rows decides nothing.

    Not bit for bit: the survey adds counts up in the user's order, and a rounding error in a sum over a slice
    goes into every step. Eight steps leave differences far below the spread of the results.
    """
    permutation = np.random.default_rng(0).permutation(N_SPOTS)
    store = write_store(tmp_path, make_table(0)[permutation].copy(), make_table(1))
    pipeline.fit(request_of(model, store))
    found, expected = results(store, model), results(fitted[model], model)
    for name, value in expected.items():
        rows = permutation if name.startswith("a/") and value.shape[0] == N_SPOTS else np.arange(len(value))
        np.testing.assert_allclose(found[name], value[rows], rtol=1e-3, atol=1e-4, err_msg=name)


@every_model
def test_a_budget_too_small_is_refused_before_work(model: str, store: Path) -> None:
    before = tree(store)
    for budget in ("601MB", "600MB", "1KB"):
        with pytest.raises(BadOption, match="memory-budget"):
            pipeline.fit(request_of(model, store, memory_budget=budget))
    assert tree(store) == before
    assert not store.with_name("store.zarr.atlasnmf").exists()


@every_model
def test_opening_checking_and_estimating_read_no_counts(
    model: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: Any) -> Any:
        raise AssertionError("counts were read")

    for source in CountSource.__subclasses__() or [type(t.counts) for t in open_atlas(store).tables]:
        monkeypatch.setattr(source, "read", read)
    before = tree(store.parent)
    atlas = open_atlas(store)
    assert atlas.n_spots == 2 * N_SPOTS
    request = request_of(model, store)
    pipeline.check(request)
    assert pipeline.estimate(request).n_spots == 2 * N_SPOTS
    assert pipeline.info(str(store)).n_spots == 2 * N_SPOTS
    assert tree(store.parent) == before
    with pytest.raises(AssertionError, match="counts were read"):
        pipeline.fit(request)
