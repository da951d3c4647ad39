"""The same fit here and on workers: within tolerance of one, the same bits for as many, resumable."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_stores import StopAt, fit_options, refused, results

from atlasnmf import models, pipeline
from atlasnmf.budget import INTERPRETER_BYTES
from atlasnmf.errors import BadOption, Interrupted
from atlasnmf.options import PrepareOptions, RunOptions
from atlasnmf.pipeline import FitRequest
from atlasnmf.pipeline.inference import TILE_SPOTS, InferTile
from atlasnmf.store.atlas import open_atlas
from atlasnmf.tiles.plan import plan_tiles


def request_of(store: Path, encoder: str = "lgcn", **run: object) -> FitRequest:
    params = models.params_with_preset(
        "inspire",
        "default",
        {"n_factors": 4, "steps": 9, "batch_spots": 48, "hidden": 16, "encoder": encoder},
    )
    options = RunOptions(**({"device": "cpu", "checkpoint_every": 3} | run))
    return FitRequest("inspire", str(store), params, PrepareOptions(), run=options).settled()


def fitted(clean: Path, folder: Path, client: object, encoder: str, **run: object) -> dict[str, np.ndarray]:
    folder.mkdir()
    store = Path(shutil.copytree(clean, folder / "store.zarr"))
    pipeline.fit(request_of(store, encoder, **run), client=client)
    return results(store)


@pytest.mark.parametrize("encoder", ["lgcn", "gat"])
def test_two_workers_give_what_one_process_gives(client, clean, tmp_path, encoder) -> None:  # type: ignore[no-untyped-def]
    alone = fitted(clean, tmp_path / "alone", None, encoder)
    two = fitted(clean, tmp_path / "two", client, encoder)
    again = fitted(clean, tmp_path / "again", client, encoder)
    one = fitted(clean, tmp_path / "one", client, encoder, train_workers=1)
    here = fitted(clean, tmp_path / "here", client, encoder, train_workers=0)
    for name, value in alone.items():
        # after nine steps of Adamax, whose first steps take gradients by their sign
        np.testing.assert_allclose(two[name], value, rtol=2e-2, atol=5e-3, equal_nan=True, err_msg=name)
        for other in (one, here):
            np.testing.assert_array_equal(other[name], value, err_msg=name)
        np.testing.assert_array_equal(again[name], two[name], err_msg=name)


def models_kept() -> int:
    from atlasnmf.pipeline import inference

    return len(inference._TRAINED)


def test_spots_are_embedded_where_the_training_was(client, clean, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    store = Path(shutil.copytree(clean, tmp_path / "store.zarr"))
    request = request_of(store)
    trained = pipeline.train(open_atlas(str(store)), request, client=client)
    here = [values for _, values in replace(trained, _shared=None).embed()]

    def not_here(*args: object) -> None:
        raise AssertionError("this process was asked")

    monkeypatch.setattr(trained.model, "infer", not_here, raising=False)
    embedding = trained.embed()
    there = [next(embedding)[1]]
    assert max(client.run(models_kept).values()) == 1
    there += [values for _, values in embedding]
    # workers stay, and hold nothing of the fit that is over
    assert set(client.run(models_kept).values()) == {0}
    # a tile is small: it needs no room for the batches of a step, which ranks have divided
    task = InferTile(replace(trained._shared[1].job, budget_bytes=INTERPRETER_BYTES + 1))
    (tile,) = [tile for tile in plan_tiles(np.array([0, 220, 440]), TILE_SPOTS) if tile.start == 0]
    for name, rows in task(tile).items():
        np.testing.assert_array_equal(rows, here[0][name], err_msg=name)
    task.forget()
    assert len(here) == len(there) > 1
    for expected, values in zip(here, there, strict=True):
        for name, rows in expected.items():
            np.testing.assert_array_equal(values[name], rows, err_msg=name)


def test_interrupted_on_workers_and_resumed_ends_alike(client, clean, tmp_path) -> None:  # type: ignore[no-untyped-def]
    whole = fitted(clean, tmp_path / "whole", client, "lgcn")
    store = Path(shutil.copytree(clean, tmp_path / "store.zarr"))
    address = client.scheduler.address
    with pytest.raises(Interrupted) as stopped:
        pipeline.fit(request_of(store, scheduler=address), events=StopAt(4))
    assert stopped.value.resume_command == f"atlasnmf resume {store}"
    pipeline.resume(str(store))
    for name, value in results(store).items():
        np.testing.assert_array_equal(value, whole[name], err_msg=name)


def test_history_has_every_step(client, clean, tmp_path) -> None:  # type: ignore[no-untyped-def]
    store = Path(shutil.copytree(clean, tmp_path / "store.zarr"))
    outcome = pipeline.fit(request_of(store), client=client)
    assert outcome.fit.history["step"].tolist() == list(range(1, 10))
    assert np.isfinite(outcome.fit.history["loss"]).all()
    assert outcome.fit.request.run.train_workers == 2


def test_workers_without_a_cluster_are_refused(clean: Path) -> None:
    line = refused("fit", "inspire", str(clean), *fit_options(), "--train-workers", "2")
    assert "--train-workers 2 needs a cluster: give --workers 2" in line
    assert not Path(f"{clean}.atlasnmf").exists()


def test_a_model_of_passes_shares_no_steps(client, clean: Path) -> None:  # type: ignore[no-untyped-def]
    params = models.params_with_preset("stanmf", "default", {"ranks": "3-4", "replicates": 2})
    request = FitRequest("stanmf", str(clean), params, PrepareOptions(), run=RunOptions(train_workers=2))
    with pytest.raises(BadOption, match="the steps of stanmf cannot be shared"):
        pipeline.fit(request, client=client)
