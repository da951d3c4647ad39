"""SpatialFuser on workers: the fit of one process within tolerance, the same bits again, resumable."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from small_stores import StopAt, ok

from atlasnmf import models, pipeline
from atlasnmf.budget import format_bytes
from atlasnmf.errors import BadOption, Interrupted
from atlasnmf.options import PrepareOptions, RunOptions
from atlasnmf.pipeline import FitRequest
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.matches import stored_matches

FORMS = {"whole": {}, "tiles": {"batch_spots": 64}, "far": {"alpha": 0.2}}
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


@pytest.mark.parametrize(("form", "off"), [("whole", 1e-3), ("far", 5e-3)])
def test_whole_slices_are_shared_too(client, clean, tmp_path, form, off) -> None:  # type: ignore[no-untyped-def]
    alone, two = (fitted(clean, tmp_path / str(bool(on)), form, on) for on in (None, client))
    for name, value in embeddings(alone).items():
        # which spots far away are each other's nearest turns on the last bits of an embedding
        atol = off * np.abs(value).max()
        np.testing.assert_allclose(embeddings(two)[name], value, rtol=0, atol=atol, err_msg=name)


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


def test_workers_too_small_for_their_share_are_refused_before_any_work(client, clean) -> None:  # type: ignore[no-untyped-def]
    """What is room for one process is less than the interpreters of two."""
    with pytest.raises(BadOption, match=r"each of 2 workers needs .* fewer --workers or --memory-budget \d"):
        pipeline.fit(request_of(clean, workers=2, memory_budget="1.1GB"), client=client)
    assert not Path(f"{clean}.atlasnmf").exists()


class Begun(Exception):
    """A training would begin now."""


@pytest.mark.parametrize(("where", "each"), [("workers", 1.5e9), ("scheduler", 3e9)])
def test_a_rank_has_its_part_of_the_budget(client, clean, tmp_path, monkeypatch, where, each) -> None:  # type: ignore[no-untyped-def]
    """``--workers`` divide what the command may hold; those of ``--scheduler`` may hold it each."""
    from atlasnmf.events import SILENT
    from atlasnmf.pipeline import fitting, placing

    jobs, granted = [], []

    def begin(client: object, job: placing.FitJob, *args: object) -> None:
        jobs.append(job)
        raise Begun

    def loader(
        copy: object, needs: object, request: object, limits: object, *args: object, **rank: int
    ) -> None:
        granted.append((limits.budget.total_bytes, rank))  # type: ignore[attr-defined]
        raise Begun

    monkeypatch.setattr(fitting, "train_on_workers", begin)
    cluster = {"workers": 2} if where == "workers" else {"scheduler": client.scheduler.address}
    request = request_of(copy_of(clean, tmp_path / "store"), memory_budget="3GB", **cluster)
    with pytest.raises(Begun):
        pipeline.fit(request, client=client)
    monkeypatch.setattr(placing, "loader_for", loader)
    with pytest.raises(Begun):
        jobs[0].share(1, 2, "cpu", SILENT)
    assert granted == [(each, {"rank": 1, "n_ranks": 2})]


def test_a_plan_for_two_ranks_is_for_half_of_a_step(clean) -> None:  # type: ignore[no-untyped-def]
    """What is kept of all spots is kept twice; what a step computes is divided."""
    from atlasnmf.pipeline.sizes import VECTOR_BYTES, Sizes

    atlas, request = open_atlas(str(clean)), request_of(clean)
    sizes = Sizes.of(atlas, request)
    alone, one, all_but_steps = (sizes.rank_bytes(n) for n in (1, 2, 10**9))
    assert one < alone
    assert all_but_steps > sizes.n_spots * VECTOR_BYTES
    params = [f"--{name.replace('_', '-')}={value}" for name, value in (PARAMS | FORMS["tiles"]).items()]
    said = ok("estimate", "spatialfuser", str(clean), *params, "--workers", "2", "--device", "cpu")
    assert f"2 workers share a step; each holds {format_bytes(one)}" in said
    assert "share a step" not in ok("estimate", "spatialfuser", str(clean), "--workers", "1")
