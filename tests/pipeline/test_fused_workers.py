"""SpatialFuser on workers: the fit of one process within tolerance, the same bits again, resumable."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from small_stores import StopAt, ok, refused, tree_hash

from atlasnmf import models, pipeline
from atlasnmf.errors import BadOption, Interrupted
from atlasnmf.options import PrepareOptions, RunOptions
from atlasnmf.pipeline import FitRequest
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.matches import stored_matches

FORMS = {"whole": {}, "tiles": {"batch_spots": 64}}
PARAMS = {"components": 8, "pretrain_steps": 8, "fuse_steps": 12, "match_every": 6}


def request_of(store: Path, form: str = "tiles", **run: object) -> FitRequest:
    params = models.params_with_preset("spatialfuser", "default", PARAMS | FORMS[form])
    options = RunOptions(**({"device": "cpu", "checkpoint_every": 5} | run))
    return FitRequest("spatialfuser", str(store), params, PrepareOptions(), run=options).settled()


def copy_of(clean: Path, folder: Path) -> Path:
    folder.mkdir()
    return Path(shutil.copytree(clean, folder / "store.zarr"))


def embeddings(store: Path) -> dict[str, np.ndarray]:
    root = zarr.open_group(str(store), mode="r")
    return {
        name: root[f"tables/{name}/obsm/X_spatialfuser"][:]
        for name in root["tables"].group_keys()
        if name != "spatialfuser_matches"
    }


def pairs(store: Path) -> set[tuple[int, int]]:
    found = stored_matches(open_atlas(str(store)), "spatialfuser_matches")
    return set(zip(found.source.tolist(), found.target.tolist(), strict=True))


def same(store: Path, expected: Path) -> None:
    found, plain = embeddings(store), embeddings(expected)
    assert found.keys() == plain.keys()
    for name, value in plain.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert pairs(store) == pairs(expected)


def fitted(clean: Path, folder: Path, form: str, client: object) -> Path:
    store = copy_of(clean, folder)
    pipeline.fit(request_of(store, form), client=client)
    return store


@pytest.mark.slow
def test_two_workers_give_what_one_process_gives(client, clean, tmp_path) -> None:  # type: ignore[no-untyped-def]
    alone = fitted(clean, tmp_path / "alone", "tiles", None)
    two = copy_of(clean, tmp_path / "two")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in (PARAMS | FORMS["tiles"]).items()]
    ok("fit", "spatialfuser", str(two), *options, "--device", "cpu", "--workers", "2")
    for name, value in embeddings(alone).items():
        # twenty steps of Adam, whose first steps take gradients by their sign
        atol = 1e-3 * np.abs(value).max()
        np.testing.assert_allclose(embeddings(two)[name], value, rtol=0, atol=atol, err_msg=name)
    ours, plain = pairs(two), pairs(alone)
    assert len(ours & plain) >= 0.98 * len(ours | plain) > 0
    again = fitted(clean, tmp_path / "again", "tiles", client)
    same(again, two)


def test_whole_slices_are_shared_too(client, clean, tmp_path) -> None:  # type: ignore[no-untyped-def]
    alone, two = (fitted(clean, tmp_path / str(bool(on)), "whole", on) for on in (None, client))
    for name, value in embeddings(alone).items():
        np.testing.assert_allclose(
            embeddings(two)[name], value, rtol=0, atol=1e-3 * np.abs(value).max(), err_msg=name
        )


@pytest.mark.parametrize(
    "step",
    [pytest.param(4, marks=pytest.mark.slow), 17, pytest.param(22, marks=pytest.mark.slow)],
    ids=["pretrain", "fuse", "measure"],
)
def test_interrupted_on_workers_and_resumed_ends_alike(client, clean, tmp_path, step) -> None:  # type: ignore[no-untyped-def]
    whole = fitted(clean, tmp_path / "whole", "tiles", client)
    store = copy_of(clean, tmp_path / "stopped")
    with pytest.raises(Interrupted):
        pipeline.fit(request_of(store, scheduler=client.scheduler.address), events=StopAt(step))
    pipeline.resume(str(store))
    same(store, whole)


def test_long_range_on_workers_is_refused_before_any_work(client, clean) -> None:  # type: ignore[no-untyped-def]
    before = tree_hash(clean)
    options = ["--alpha", "0.2", "--device", "cpu", "--scheduler", client.scheduler.address]
    line = refused("fit", "spatialfuser", str(clean), *options)
    assert "--alpha averages over whole slices" in line
    assert "--train-workers 0" in line
    assert tree_hash(clean) == before
    assert not Path(f"{clean}.atlasnmf").exists()


def test_workers_too_small_for_their_share_are_refused_before_any_work(client, clean) -> None:  # type: ignore[no-untyped-def]
    """What is room for one process is less than the interpreters of two."""
    with pytest.raises(BadOption, match=r"each of 2 workers needs .* fewer --workers or --memory-budget \d"):
        pipeline.fit(request_of(clean, workers=2, memory_budget="1.1GB"), client=client)
    assert not Path(f"{clean}.atlasnmf").exists()
