"""Records laid out in memory are, file by file, what AnnData writes into a folder."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from atlasnmf.store.records import write_record
from atlasnmf.store.writer import write_element

RECORD = {
    "params": {"n_factors": 4, "radius": None, "encoder": "lgcn", "names": ["a", "b"]},
    "history": {
        "step": np.arange(5),
        "loss": np.linspace(1, 0, 5, dtype=np.float32),
        "none": np.empty((0, 2)),
    },
    "genes": pd.DataFrame({"gene": ["x", "y"], "q": [0.1, np.nan]}, index=["0", "1"]),
    "kind": pd.Categorical(["a", "b", "a"]),
    "labels": np.array(["pia", "white matter"], dtype=object),
    "nothing": {},
    "done": True,
}


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("record", [RECORD, {}], ids=["full", "empty"])
def test_the_files_are_those_of_anndata(tmp_path, record, zarr_format):
    write_record(tmp_path / "ours", record, zarr_format=zarr_format)
    write_element(tmp_path / "theirs", "node", record, zarr_format=zarr_format)
    assert _files(tmp_path / "ours") == _files(tmp_path / "theirs" / "node")
    assert _files(tmp_path / "ours")
