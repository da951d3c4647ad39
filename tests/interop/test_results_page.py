"""The examples of the page on reading results run with the packages they name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "results.md"


def _blocks() -> tuple[list[str], list[str]]:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    matched = [block for block in blocks if "matches" in block]
    assert len(blocks) > 8
    assert len(matched) == 2
    return [block for block in blocks if block not in matched], matched


def _run(blocks: list[str], small: dict[str, str]) -> None:
    names: dict[str, object] = {}
    for block in blocks:
        for printed, own in small.items():
            block = block.replace(printed, own)
        exec(compile(block, str(PAGE), "exec"), names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the other packages
def test_results_are_read_as_the_page_says(fitted_store, example_stores, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda *_, **__: None)
    of_factors, of_matches = _blocks()
    shutil.copytree(fitted_store, "atlas.zarr")
    _run(of_factors, {"slice_a": "slice_1"})
    shutil.rmtree("atlas.zarr")
    example_stores.copy("sections.zarr", tmp_path)
    small = {"atlas.zarr": "sections.zarr", "slice_a": "rna", "slice_b": "protein", '"domains"': '"domain"'}
    _run(["import spatialdata\nsdata = spatialdata.read_zarr('sections.zarr')", *of_matches], small)
