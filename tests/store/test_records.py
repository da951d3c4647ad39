"""Records written here are, file by file, what AnnData writes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from atlasnmf.store.records import write_record
from atlasnmf.store.writer import write_element

RECORD = {
    "params": {"n_factors": 4, "radius": None, "encoder": "lgcn", "names": ["a", "b"]},
    "lists": {"none": [], "numbers": [1, 2], "shares": [0.5, 1.0], "flags": [True, False], "both": [1, 0.5]},
    "history": {"step": np.arange(5), "loss": np.linspace(1, 0, 5, dtype=np.float32), "of": {"nothing": {}}},
    "numbers": {"zero": 0, "minus": -3, "minus zero": -0.0, "nan": np.nan, "inf": np.inf, "large": 2**62},
    "types": {t.__name__: t(1) for t in (np.bool_, np.uint8, np.int16, np.float32, np.float64)},
    "flags": {"yes": True, "no": False, "off": np.bool_(False)},
    "words": {"empty": "", "greek": "µm", "long": "spot " * 4000, "numpy": np.str_("word")},
    "arrays": {
        "square": np.arange(6.0).reshape(2, 3),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "every other": np.arange(9)[::2],
        "zeros": np.zeros(4),
        "minus zeros": -np.zeros(4),
        "of nothing": np.empty((0, 2)),
        "a number": np.array(3.0),
        "big endian": np.arange(3, dtype=">i4"),
        "flags": np.array([True, False]),
        "bytes": np.arange(7, dtype=np.uint8),
        "halves": np.arange(3, dtype=np.float16),
        "words": np.array(["pia", "white matter", ""]),
        "words of two rows": np.array([["a"], ["bc"]]),
        "no word": np.array(["", ""]),
        "objects": np.array(["pia", "white matter"], dtype=object),
        "just one chunk": np.arange(2048.0),
        "long": np.arange(70_000),
    },
    "genes": pd.DataFrame({"gene": ["x", "y"], "q": [0.1, np.nan]}, index=["0", "1"]),
    "kind": pd.Categorical(["a", "b", "a"]),
}


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", [*RECORD, "all", "nothing"])
def test_the_files_are_those_of_anndata(tmp_path, name, zarr_format):
    record = {"all": RECORD, "nothing": {}}.get(name, {name: RECORD.get(name)})
    write_record(tmp_path / "ours", record, zarr_format=zarr_format)
    write_element(tmp_path / "theirs", "node", record, zarr_format=zarr_format)
    ours, theirs = _files(tmp_path / "ours"), _files(tmp_path / "theirs" / "node")
    assert ours.keys() == theirs.keys() != set()
    assert [file for file in ours if ours[file] != theirs[file]] == []


def test_a_name_with_a_slash_is_refused_by_anndata(tmp_path):
    with pytest.raises(ValueError, match="slashes are not allowed"):
        write_record(tmp_path / "ours", {"a/b": 1})


@pytest.mark.parametrize("name", [".", ".."])
def test_names_of_folders_are_refused(tmp_path, name):
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="no store can keep"):
        write_record(tmp_path / "a" / "record", {"b": {name: {"c": 1}}})
    assert not (tmp_path / "a" / "record" / "c").exists()
