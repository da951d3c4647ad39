"""The examples of the page on analysis run, one after the other."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "analysis.md"


@pytest.mark.slow
def test_examples_run(clean_results, tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    pytest.importorskip("scanpy")
    shutil.copytree(clean_results, tmp_path / "embryo.zarr")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 8
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert (tmp_path / "slice_1.h5ad").exists()
