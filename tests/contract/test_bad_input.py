"""Bad input gets one line and exit code 2, before any work; the store stays byte for byte as it was."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from atlasnmf import cli
from atlasnmf.store.ingest import ingest

N_SPOTS, N_GENES = 60, 40


def tree_hash(root: Path) -> str:
    """Hash every file's path and bytes below a folder."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def make_table(seed: int = 0, n_spots: int = N_SPOTS) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    counts = scipy.sparse.csr_matrix(rng.poisson(1.0, (n_spots, N_GENES)).astype(np.float32))
    grid = np.stack(np.meshgrid(np.arange(10), np.arange((n_spots + 9) // 10)), axis=-1).reshape(-1, 2)
    table = anndata.AnnData(
        counts,
        obs=pd.DataFrame(
            {"stage": pd.Categorical(["a", "b"] * (n_spots // 2))}, index=[f"s{i}" for i in range(n_spots)]
        ),
        var=pd.DataFrame(index=[f"g{i:03d}" for i in range(N_GENES)]),
    )
    table.obsm["spatial"] = grid[:n_spots].astype(float)
    return table


def build(folder: Path, *tables: anndata.AnnData) -> Path:
    paths = []
    for number, table in enumerate(tables):
        path = folder / f"table{number}.h5ad"
        table.write_h5ad(path)
        paths.append(str(path))
    store = folder / "store.zarr"
    ingest(paths, str(store))
    return store


def both(change: Callable[[anndata.AnnData], None] = lambda table: None) -> list[anndata.AnnData]:
    """Two good tables, the first changed."""
    tables = [make_table(0), make_table(1)]
    change(tables[0])
    return tables


def set_count(value: float) -> Callable[[anndata.AnnData], None]:
    def change(table: anndata.AnnData) -> None:
        table.X.data[3] = value

    return change


def halve_with_layer(table: anndata.AnnData) -> None:
    table.layers["raw"] = table.X.copy()
    table.X.data = table.X.data * 0.5


def nan_coordinate(table: anndata.AnnData) -> None:
    table.obsm["spatial"][2, 0] = np.nan


def no_coordinates(table: anndata.AnnData) -> None:
    del table.obsm["spatial"]


def repeat_gene(table: anndata.AnnData) -> None:
    table.var_names = ["g000", "g000", *table.var_names[2:]]


def repeat_spot(table: anndata.AnnData) -> None:
    table.obs_names = ["s0", "s0", *table.obs_names[2:]]


def other_genes(table: anndata.AnnData) -> None:
    table.var_names = [f"other{i}" for i in range(N_GENES)]


def empty_level(table: anndata.AnnData) -> None:
    table.obs["stage"] = table.obs["stage"].cat.add_categories(["c"])


@dataclass(frozen=True)
class Case:
    """Tables to build, options to give, words the one line must hold."""

    tables: Callable[[], list[anndata.AnnData]]
    options: tuple[str, ...]
    words: tuple[str, ...]


FIT = ("--n-factors", "4", "--steps", "5")
CASES = {
    "no such table": Case(both, (*FIT, "--tables", "tabel0,table1"), ("tabel0", "table0")),
    "no such slice key": Case(both, (*FIT, "--slice-key", "stag"), ("stag", "stage")),
    "no such layer": Case(both, (*FIT, "--layer", "rwa"), ("rwa",)),
    "negative counts": Case(lambda: both(set_count(-1)), FIT, ("table0", "negative")),
    "counts that are not finite": Case(lambda: both(set_count(np.nan)), FIT, ("table0", "finite")),
    "counts that are not whole": Case(lambda: both(halve_with_layer), FIT, ("table0", "whole", "raw")),
    "missing coordinates": Case(lambda: both(nan_coordinate), FIT, ("table0", "coordinate")),
    "no coordinates": Case(lambda: both(no_coordinates), FIT, ("table0", "spatial")),
    "repeated gene names": Case(lambda: both(repeat_gene), FIT, ("table0", "g000")),
    "repeated spot names": Case(lambda: both(repeat_spot), FIT, ("table0", "s0")),
    "one slice where two are needed": Case(lambda: [make_table()], FIT, ("slice",)),
    "a slice with no spots": Case(
        lambda: both(empty_level), (*FIT, "--slice-key", "stage", "--tables", "table0"), ("c", "spots")
    ),
    "fewer genes than factors": Case(both, ("--n-factors", "41", "--steps", "5"), ("41", "genes")),
    "no gene shared": Case(lambda: both(other_genes), FIT, ("gene", "share none")),
    "radius too large": Case(both, (*FIT, "--radius", "1e6"), ("radius", "degree")),
    "radius too small": Case(both, (*FIT, "--radius", "1e-6"), ("radius", "degree")),
    "budget too small": Case(both, (*FIT, "--memory-budget", "601MB"), ("budget", "memory-budget")),
    "unreadable budget": Case(both, (*FIT, "--memory-budget", "lots"), ("lots", "4GB")),
    "factors below two": Case(both, ("--n-factors", "1"), ("n-factors",)),
    "unknown preset": Case(both, (*FIT, "--preset", "quick"), ("quick", "published")),
}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must be refused; return its one line."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    assert stop.value.code == 2, captured.err
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line_and_the_store_is_untouched(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    store = build(tmp_path, *case.tables())
    before = tree_hash(store)
    line = refusal(capsys, "fit", "inspire", str(store), *case.options)
    for word in case.words:
        assert word in line
    assert tree_hash(store) == before


def test_missing_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere.zarr" in refusal(capsys, "fit", "inspire", str(tmp_path / "nowhere.zarr"), *FIT)


def test_not_a_spatialdata_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zarr.open_group(str(tmp_path / "plain.zarr"), mode="w")
    before = tree_hash(tmp_path)
    assert "SpatialData" in refusal(capsys, "fit", "inspire", str(tmp_path / "plain.zarr"), *FIT)
    assert tree_hash(tmp_path) == before


def test_results_that_exist_need_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = build(tmp_path, *both())
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "inspire", str(store), *FIT])
    assert stop.value.code == 0
    before = tree_hash(store)
    assert "--overwrite" in refusal(capsys, "fit", "inspire", str(store), *FIT)
    assert tree_hash(store) == before


def test_a_store_someone_else_is_writing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from atlasnmf.store.atlas import open_atlas
    from atlasnmf.store.working import WorkingCopy

    store = build(tmp_path, *both())
    before = tree_hash(store)
    with WorkingCopy.open(open_atlas(str(store))).lock():
        assert "lock" in refusal(capsys, "fit", "inspire", str(store), *FIT)
    assert tree_hash(store) == before


def test_a_working_copy_of_another_input_is_rebuilt_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = build(tmp_path, *both())
    cli_ok("prepare", str(store))
    shutil.rmtree(store)
    other = tmp_path / "other"
    other.mkdir()
    build(other, make_table(5), make_table(6, n_spots=80)).rename(store)
    before = tree_hash(store)
    assert "working copy" in refusal(capsys, "fit", "inspire", str(store), *FIT)
    assert tree_hash(store) == before


def test_all_zero_spots_and_duplicated_coordinates_are_kept_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(table: anndata.AnnData) -> None:
        table.X = scipy.sparse.csr_matrix(table.X.toarray() * (np.arange(N_SPOTS) != 7)[:, None])
        table.obsm["spatial"][9] = table.obsm["spatial"][10]

    store = build(tmp_path, *both(change))
    cli_ok("fit", "inspire", str(store), *FIT)
    said = capsys.readouterr().err
    assert "1 spot" in said
    assert "duplicated" in said
    group = zarr.open_group(str(store), mode="r")
    embedding = group["tables/table0/obsm/X_inspire"][:]
    assert np.isnan(embedding[7]).all()
    assert np.isfinite(np.delete(embedding, 7, axis=0)).all()


def cli_ok(*arguments: str) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    assert stop.value.code == 0
