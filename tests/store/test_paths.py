from __future__ import annotations

import os

import pytest

from atlasnmf.errors import BadInput
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.describe import describe
from atlasnmf.store.disk import refuse_unwritable_store
from atlasnmf.store.ingest import ingest
from atlasnmf.store.paths import local_path, new_file, new_folder
from atlasnmf.store.results import ResultWriter


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


def _not_writable(monkeypatch, *places):
    """Have the system say of some places that they may not be written; to root all may."""
    access = os.access
    refused = {str(place) for place in places}
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) not in refused and access(path, mode))


@pytest.mark.parametrize("inside", ["", "tables", "tables/slice_0", "tables/slice_0/obsm"])
def test_a_store_that_may_not_be_written_is_refused_before_any_work(
    stores, new_table, tree_hash, monkeypatch, inside
):
    atlas = open_atlas(stores.plain(new_table(9)))
    before = tree_hash(atlas.path.parent)
    _not_writable(monkeypatch, atlas.path / inside)
    with pytest.raises(BadInput, match=r"you may not write there.*results go into the store: copy it"):
        refuse_unwritable_store(atlas.path)
    with pytest.raises(BadInput, match="results go into the store: copy it"), ResultWriter(atlas):
        pass
    with atlas.lock():  # the writer has let go of it
        pass
    after = {name: code for name, code in tree_hash(atlas.path.parent).items() if not name.endswith("lock")}
    assert after == before


def test_a_place_without_room_for_a_working_copy_is_refused(stores, new_table, monkeypatch):
    path = stores.plain(new_table(9))
    _not_writable(monkeypatch, path.parent)
    with pytest.raises(BadInput, match="working copies and their locks lie beside a store"):
        open_atlas(path).lock().__enter__()
    with pytest.raises(BadInput, match=r"name another place for r\.csv"):
        new_file(path.parent / "r.csv")
    with pytest.raises(BadInput, match="name another folder"):
        new_folder(path.parent / "new" / "tables")
    assert not (path.parent / "new").exists()
