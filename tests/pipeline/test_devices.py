"""Fits on a device, from the command line to the store; without one, on a stand-in that computes here."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from small_stores import ok

from atlasnmf.simulate import simulate_embryo

INSPIRE = ("inspire", "--n-factors=4", "--steps=6", "--hidden=32", "--batch-spots=64")
FUSER = ("spatialfuser", "--pretrain-steps=3", "--fuse-steps=3")
GENES = ("--features=genes", "--no-start", "--hidden=16,8")
FITS = {
    "inspire": INSPIRE,
    "inspire as published, attention": (*INSPIRE, "--preset=published", "--encoder=gat"),
    "spatialfuser, tiles": (*FUSER, "--batch-spots=100"),
    "spatialfuser, genes": (*FUSER, *GENES),
}
MORE = {
    "inspire, attention": (*INSPIRE, "--encoder=gat"),
    "inspire as published": (*INSPIRE, "--preset=published", "--encoder=lgcn"),
    "inspire, a number of factors chosen": (*INSPIRE, "--n-factors=auto"),
    "spatialfuser": FUSER,
    "spatialfuser, far neighbours": (*FUSER, "--alpha=0.3"),
    "spatialfuser, denoised": (*FUSER, "--encoders=own", "--denoise=GENE0100"),
}
#: What is stored of every spot, of products that are added in another order through a few steps.
CLOSE = {"rtol": 1e-3, "atol": 2e-3}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("devices") / "clean.zarr"
    simulate_embryo(str(path), n_spots=450, n_slices=2, n_genes=120, n_factors=4)
    ok("prepare", str(path))
    return path


def stored(store: Path) -> dict[str, np.ndarray]:
    tables = zarr.open_group(str(store), mode="r")["tables"]
    return {
        f"{table}/{name}": tables[f"{table}/obsm/{name}"][:]
        for table in tables.group_keys()
        if table.startswith("slice")
        for name in tables[f"{table}/obsm"].array_keys()
        if "inspire" in name or "spatialfuser" in name
    }


def fitted(clean: Path, folder: Path, *options: str) -> dict[str, np.ndarray]:
    folder.mkdir()
    for name in (clean.name, f"{clean.name}.atlasnmf"):
        shutil.copytree(clean.with_name(name), folder / name)
    ok("fit", options[0], str(folder / clean.name), *options[1:])
    return stored(folder / clean.name)


@pytest.mark.parametrize(
    "options",
    [*FITS.values(), *(pytest.param(options, marks=pytest.mark.slow) for options in MORE.values())],
    ids=[*FITS, *MORE],
)
def test_a_fit_there_is_the_fit_here(
    clean: Path, tmp_path: Path, torch_device: str, options: tuple[str, ...]
) -> None:
    here = fitted(clean, tmp_path / "here", *options, "--device=cpu")
    there = fitted(clean, tmp_path / "there", *options, f"--device={torch_device}")
    assert here.keys() == there.keys()
    assert here
    for key, expected in here.items():
        np.testing.assert_allclose(there[key], expected, **CLOSE, err_msg=key)
