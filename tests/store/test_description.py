"""What ``info`` says to people."""

from __future__ import annotations

from pathlib import Path

from atlasnmf.store.describe import Description, StageInfo
from atlasnmf.store.slices import SliceInfo


def _description(**changes):
    tables = ("slice_1", "slice_2")
    results = {name: {"inspire": {"obsm": ["X_inspire"], "varm": ["inspire_loadings"]}} for name in tables}
    given = {
        "name": "e.zarr",
        "slices": (SliceInfo("slice_1", "slice_1", 1667), SliceInfo("slice_2", "slice_2", 33_333)),
        "n_spots": 35_000,
        "n_genes": 400,
        "nnz": 70_000,
        "counts": {name: f"counts in X of table {name!r}, csr int32" for name in tables},
        "coordinates": dict.fromkeys(tables, "positions in obsm['spatial']"),
        "counts_bytes": 2_300_000,
        "results": results,
    }
    return Description(**(given | changes))


def test_what_is_the_same_for_all_tables_is_said_once():
    text = "\n".join(_description().lines())
    assert "35,000 spots, 400 genes, 2 slices; 2 stored counts a spot" in text
    assert text.count("csr int32") == 1
    assert "counts in X, csr int32; positions in obsm['spatial']  (2 tables)" in text
    assert text.count("inspire_loadings") == 1
    assert "atlasnmf report e.zarr -o report.html" in text
    assert "slice_1   1,667 spots\n    slice_2  33,333 spots" in text
    assert " in table" not in text


def test_what_differs_is_said_of_each():
    results = {
        "slice_1": {"siid": {"obsm": ["siid_factors"]}},
        "slice_2": {"siid": {"obsm": ["siid_proportions"]}},
    }
    text = "\n".join(_description(results=results).lines())
    assert "siid: obsm['siid_factors']  (slice_1)" in text
    assert "siid: obsm['siid_proportions']  (slice_2)" in text


def test_tables_of_results_are_named():
    assert "  tables: spatialfuser_matches" in _description(tables=("spatialfuser_matches",)).lines()
    assert not any(line.startswith("  tables:") for line in _description().lines())


def test_a_bare_store_says_what_to_do():
    lines = _description(results={}).lines()
    assert "no results" in lines
    assert any("atlasnmf fit MODEL e.zarr" in line for line in lines)
    assert lines[-1] == "no working copy"


def test_stages_and_what_was_interrupted():
    stages = (
        StageInfo("survey", "done", 1234.5, "2026-11-21T12:35:06+0000"),
        StageInfo("fit", "running", 0.0, ""),
    )
    lines = _description(
        stages=stages, interrupted="inspire", working_path=Path("w"), working_bytes={"a": 10**9}
    ).lines()
    assert "  survey  done   1,234.5 s  2026-11-21 12:35" in lines
    assert lines[-1] == "inspire was interrupted and can go on: atlasnmf resume e.zarr"
    prepared = _description(interrupted="prepare", working_path=Path("w")).lines()
    assert prepared[-1] == "prepare was interrupted and can go on: atlasnmf resume e.zarr"
