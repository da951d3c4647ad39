"""staNMF end to end: the same bits wherever the tiles are worked on, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from small_stores import ok

from atlasnmf import pipeline
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.events import Silent
from atlasnmf.models import params_with_preset
from atlasnmf.options import PrepareOptions, RunOptions
from atlasnmf.pipeline import FitRequest
from atlasnmf.simulate import simulate_embryo
from atlasnmf.store.atlas import open_atlas

QUICK = {"ranks": "3,4", "replicates": 3, "max_iterations": 30}
KEYS = ("obsm/stanmf_patterns", "varm/stanmf_coefficients")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("studies") / "clean.zarr"
    simulate_embryo(str(path), n_spots=900, n_slices=2, n_genes=80, n_factors=4)
    return path


@pytest.fixture
def store(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "store.zarr"))


def request_of(
    store: Path, params: dict | None = None, prepare: dict | None = None, **run: object
) -> FitRequest:
    settled = params_with_preset("stanmf", "default", QUICK | (params or {}))
    return FitRequest("stanmf", str(store), settled, PrepareOptions(**(prepare or {})), run=RunOptions(**run))


def results(store: Path, key: str = "stanmf") -> dict[str, np.ndarray]:
    root = zarr.open_group(str(store), mode="r")
    return {
        f"{table}/{name}": root[f"tables/{table}/{name.replace('stanmf', key)}"][:]
        for table in root["tables"].group_keys()
        for name in KEYS
    }


def test_one_worker_and_two_print_the_same(store: Path) -> None:
    options = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    found = []
    for workers in ("1", "2"):
        said = ok("fit", "stanmf", str(store), "--json", "--overwrite", *options, "--workers", workers)
        record = json.loads(said)
        assert record["quality"]["rank"] in (3, 4)
        found.append({name: record[name] for name in ("model", "table results", "loss", "quality")})
        found[-1]["results"] = {name: value.tobytes() for name, value in results(store).items()}
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "form",
    [
        {"path": "compressed", "learn_spots": 300},  # kept values here, all spots there
        {"path": "compressed", "keep_values": "reread"},
        {"path": "exact", "keep_values": "reread"},
    ],
    ids=["some kept", "compressed", "exact"],
)
def test_workers_of_a_cluster_change_no_bit(store: Path, form: dict) -> None:
    from distributed import Client, LocalCluster

    class Listener(Silent):
        def note(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    pipeline.fit(request_of(store, form, workers=1, key_added="here"))
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as workers,
        Client(workers) as client,
    ):
        there = request_of(store, form, workers=1, key_added="there")
        pipeline.fit(there, client=client, events=Listener())
        threaded = request_of(store, form, workers=2, key_added="threads")
        pipeline.fit(threaded, client=client, events=Listener())
    told = [text.split(";")[0] for text in said if text.startswith("passes")]
    assert told == ["passes over all spots on the workers", "passes in 2 threads of this process"]
    for other in ("there", "threads"):
        found = results(store, other)
        for name, value in results(store, "here").items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_an_estimate_says_where_passes_are_made(store: Path) -> None:
    options = ["stanmf", str(store), "--ranks", "3,4", "--device", "cpu"]
    assert "passes are made in 3 threads of this process" in ok("estimate", *options, "--workers", "3")
    assert "passes are made" not in ok("estimate", *options)
    there = ok("estimate", *options, "--workers", "3", "--scheduler", "tcp://127.0.0.1:1")
    assert "passes go to the workers if these have 6 threads or more" in there


def test_a_budget_settles_the_form_for_good(store: Path) -> None:
    request = request_of(store, memory_budget="2GB")
    fit = pipeline.train(open_atlas(store), request)
    assert fit.request.params.path in ("compressed", "exact")
    assert f"--path {fit.request.params.path}" in fit.request.command()


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"ranks": "70-90"}, BadInput, "needs at least 91 genes"),
        ({"ranks": "900"}, BadOption, "900 patterns need more than 900 spots"),
        ({"replicates": 1}, BadOption, "--replicates"),
        ({"ranks": "1"}, BadOption, "rank below 2"),
    ],
)
def test_what_cannot_be_studied(store: Path, params: dict, error: type, message: str) -> None:
    before = {path: path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}
    with pytest.raises(error, match=message):
        pipeline.fit(request_of(store, params))
    assert before == {path: path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def test_a_study_ends_by_itself(store: Path) -> None:
    with pytest.raises(BadOption, match="ends by itself"):
        pipeline.fit(request_of(store, patience=5))


def test_new_spots_have_no_patterns(store: Path, clean: Path, tmp_path: Path) -> None:
    fit = pipeline.train(open_atlas(store), request_of(store))
    with pytest.raises(BadOption, match="fit it to a store"):
        fit.transform(open_atlas(clean), work_dir=str(tmp_path / "work"))
