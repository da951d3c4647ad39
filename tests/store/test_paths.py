from __future__ import annotations

import pytest

from atlasnmf.errors import BadInput
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.describe import describe
from atlasnmf.store.ingest import ingest
from atlasnmf.store.paths import local_path


@pytest.mark.parametrize("spelled", ["{}", "{}/", "file://{}", "file://{}/"])
def test_a_store_is_found_however_its_path_is_written(tmp_path, new_table, spelled, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "my scans"
    folder.mkdir()
    new_table(9).write_h5ad(folder / "A 1.H5AD")
    out = ingest([spelled.format(folder / "A 1.H5AD").rstrip("/")], spelled.format(folder / "at las.zarr"))
    assert out == folder / "at las.zarr"
    atlas = open_atlas(spelled.format(out))
    assert atlas.tables[0].name == "A_1"
    assert open_atlas("~/my scans/at las.zarr").n_spots == 9
    assert f"atlasnmf fit MODEL '{out}'" in "\n".join(describe(atlas, None).lines())


def test_a_space_may_be_written_as_in_addresses():
    assert str(local_path("file:///my%20scans/a.zarr")) == "/my scans/a.zarr"


@pytest.mark.parametrize("address", ["s3://bucket/a.zarr", "https://host/a.zarr", "gs:/bucket/a.zarr"])
def test_addresses_of_other_machines_are_refused(tmp_path, address):
    with pytest.raises(BadInput, match="not a path of this machine"):
        open_atlas(address)
    with pytest.raises(BadInput, match="not a path of this machine"):
        ingest([address], tmp_path / "a.zarr")
