from __future__ import annotations

import numpy as np
import pytest
import spatialdata
from small_results import make_slice, make_store

from atlasnmf import tl
from atlasnmf.analysis.smoothing import majority
from atlasnmf.errors import BadOption
from atlasnmf.metrics import adjusted_rand


def test_the_commonest_among_the_nearest_wins(monkeypatch):
    monkeypatch.setattr("atlasnmf.analysis.smoothing.RUN_SPOTS", 37)
    rng = np.random.default_rng(0)
    positions, codes = rng.uniform(size=(150, 2)), rng.integers(-1, 4, 150).astype(np.int32)
    found = majority(codes, positions, 6)
    for spot in range(150):
        nearest = np.argsort(((positions - positions[spot]) ** 2).sum(axis=1))[:7]
        if codes[spot] < 0:
            assert found[spot] == -1
            continue
        votes = np.bincount(codes[nearest][codes[nearest] >= 0], minlength=4)
        assert votes[found[spot]] == votes.max()
        if votes[codes[spot]] == votes.max():
            assert found[spot] == codes[spot]


def test_smoothed_domains_agree_better_with_the_regions(tmp_path):
    tables = {}
    for seed in (1, 2):
        table = make_slice(seed, 500)
        noise = np.random.default_rng(seed).normal(0, 0.5, table.obsm["X_inspire"].shape)
        table.obsm["X_inspire"] = table.obsm["X_inspire"] + noise.astype(np.float32)
        tables[f"slice_{seed}"] = table
    path = make_store(tmp_path / "noisy.zarr", **tables)
    tl.domains(str(path), n_domains=3, key_added="rough")
    tl.domains(str(path), n_domains=3, smooth=12, key_added="smooth")
    for table in spatialdata.read_zarr(path).tables.values():
        rough, smooth = (adjusted_rand(table.obs["region"], table.obs[name]) for name in ("rough", "smooth"))
        assert smooth > rough + 0.05
        assert list(table.obs["smooth"].cat.categories) == ["0", "1", "2"]


def test_fewer_than_no_neighbours_are_refused(untouched):
    with pytest.raises(BadOption, match="0 or more"):
        tl.domains(str(untouched), smooth=-1)
