from __future__ import annotations

import json
import multiprocessing
import signal
import time

import numpy as np
import pytest

from atlasnmf.errors import BadInput, StoreBusy
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.describe import describe
from atlasnmf.store.ledger import Ledger, key_of
from atlasnmf.store.working import WorkingCopy


@pytest.fixture
def atlas(stores, new_table):
    return open_atlas(stores.plain(new_table(12), new_table(5, seed=1)))


def test_it_lies_beside_the_store_and_opens_again(atlas):
    working = WorkingCopy.open(atlas)
    assert working.path.name == "plain.zarr.atlasnmf"
    working.put_vector("a", np.arange(5, dtype=np.uint16))
    again = WorkingCopy.open(open_atlas(atlas.path))
    assert again.vector("a").tolist() == [0, 1, 2, 3, 4]
    assert again.facts()["source"]["tables"] == ["slice_0", "slice_1"]
    assert open_atlas(atlas.path, **again.facts()["source"]).n_spots == 17


@pytest.mark.parametrize("way", ["inside", "above", "link"])
def test_it_lies_there_by_whatever_path_the_store_is_reached(atlas, tmp_path, monkeypatch, way):
    beside = WorkingCopy.open(atlas).path
    if way == "link":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "link.zarr").symlink_to(atlas.path)
        reached = str(tmp_path / "elsewhere" / "link.zarr")
    else:
        monkeypatch.chdir(atlas.path if way == "inside" else atlas.path / "tables")
        reached = "." if way == "inside" else ".."
    found = WorkingCopy.find(reached)
    assert found is not None
    assert found.path.resolve() == beside.resolve()
    assert WorkingCopy.open(open_atlas(reached)).path.resolve() == beside.resolve()
    with atlas.lock(), pytest.raises(StoreBusy, match="lock"), open_atlas(reached).lock():
        pass


def test_it_may_lie_elsewhere_under_the_same_lock(atlas, tmp_path):
    working = WorkingCopy.open(atlas, tmp_path / "work")
    assert working.path == tmp_path / "work"
    with (
        WorkingCopy.open(open_atlas(atlas.path)).locked(),
        pytest.raises(StoreBusy, match="lock"),
        working.lock(),
    ):
        pass


@pytest.mark.parametrize(
    "values",
    [
        np.arange(4),
        np.float64(3.5),
        np.zeros((3, 2), np.float32),
        np.array([True, False]),
        np.empty(0, np.int64),
        np.empty((0, 4)),
    ],
)
def test_vectors_come_back(atlas, values):
    working = WorkingCopy.open(atlas)
    working.put_vector("v", np.arange(9))
    working.put_vector("v", values)
    got = working.vector("v")
    np.testing.assert_array_equal(got, np.atleast_1d(values))
    assert got.dtype == np.asarray(values).dtype


def test_names_come_back(atlas):
    working = WorkingCopy.open(atlas)
    working.put_vector("genes", ("a", "b"))
    assert working.vector("genes").tolist() == ["a", "b"]
    working.remove("genes")
    with pytest.raises(BadInput, match="no vector 'genes'"):
        working.vector("genes")


@pytest.mark.parametrize(
    "choice",
    [{"tables": ["slice_0"]}, {"tables": ["slice_1", "slice_0"]}, {"slices": ["slice_1", "slice_0"]}],
)
def test_other_tables_or_slices_have_a_copy_of_their_own(atlas, choice):
    first, other = WorkingCopy.open(atlas), open_atlas(atlas.path, **choice)
    first.put_vector("v", [1.0])
    second = WorkingCopy.open(other)
    assert second.path.parent.parent == first.path
    second.put_vector("v", [2.0])
    assert WorkingCopy.open(other).path == second.path
    assert [copy.path for copy in WorkingCopy.find_all(atlas.path)] == [first.path, second.path]
    # one store, one lock, and the first copy is as it was
    assert second.lock.path == first.lock.path
    assert WorkingCopy.open(open_atlas(atlas.path)).vector("v").tolist() == [1.0]


def test_another_input_is_refused_and_named(atlas):
    working = WorkingCopy.open(atlas)
    facts = working.facts()
    changed = facts["fingerprint"] | {"counts of slice_0": "others"}
    (working.path / "format.json").write_text(json.dumps(facts | {"fingerprint": changed}))
    with pytest.raises(
        BadInput, match=r"working copy .* another input \(different: counts of slice_0\); .*rm -r"
    ):
        WorkingCopy.open(atlas)
    facts |= {"format": 0}
    (working.path / "format.json").write_text(json.dumps(facts))
    with pytest.raises(BadInput, match="of format 0"):
        WorkingCopy.open(atlas)
    (working.path / "format.json").unlink()
    (working.path / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="is not a working copy"):
        WorkingCopy.open(atlas)


def test_an_atlas_in_memory_gets_a_temporary_one(new_table):
    atlas = open_atlas(new_table(6))
    working = WorkingCopy.open(atlas)
    working.put_vector("a", np.arange(3))
    path = working.path
    assert WorkingCopy.open(atlas).vector("a").tolist() == [0, 1, 2]
    del working, atlas
    assert not path.exists()


def hold(path, ready):
    with open_atlas(path).lock():
        ready.send("locked")
        time.sleep(60)


def test_one_writer_at_a_time_across_processes(atlas):
    context = multiprocessing.get_context("spawn")
    # a pipe, not an event: one whose setter or waiter is killed may keep the others for ever
    told, ready = context.Pipe(duplex=False)
    process = context.Process(target=hold, args=(atlas.path, ready))
    process.start()
    ready.close()  # so that the end of the process ends the pipe
    try:
        assert told.poll(60)
        assert told.recv() == "locked"
        with pytest.raises(StoreBusy, match=r"plain\.zarr\.atlasnmf/lock"), atlas.lock():
            pass
        process.kill()  # the lock ends with its holder, however it ends
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        with atlas.lock(), atlas.lock():
            pass
    finally:
        process.kill()
        process.join(60)


def test_the_ledger_keeps_what_is_done(tmp_path):
    ledger = Ledger(tmp_path / "ledger.json")
    key = key_of({"radius": 1.5})
    assert not ledger.is_done("graph", key)
    ledger.start("graph", key, {"radius": 1.5})
    assert not ledger.is_done("graph", key)
    assert ledger.facts("graph") == {}
    ledger.finish("graph", key, seconds=1.25, facts={"mean_degree": np.float32(6.5)})
    again = Ledger(tmp_path / "ledger.json")
    assert again.is_done("graph", key)
    assert not again.is_done("graph", key_of({"radius": 2.0}))
    assert again.facts("graph") == {"mean_degree": 6.5}
    assert again.stages()["graph"]["params"] == {"radius": 1.5}
    again.start_fit("inspire", {"n_factors": 20}, {"seed": 0})
    fit = ledger.interrupted_fit()
    assert fit is not None
    assert (fit["model"], fit["params"]) == ("inspire", {"n_factors": 20})
    ledger.end_fit()
    ledger.forget("graph")
    assert ledger.interrupted_fit() is None
    assert ledger.stages() == {}
    (tmp_path / "ledger.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be read as JSON"):
        ledger.stages()


def test_a_ledger_change_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.start("a", "k")

    def fail(*_):
        raise OSError("power cut")

    monkeypatch.setattr("atlasnmf.store.ledger.os.replace", fail)
    with pytest.raises(OSError, match="power cut"):
        ledger.finish("a", "k", seconds=1.0)
    monkeypatch.undo()
    assert ledger.stages()["a"]["status"] == "running"
    assert [entry.name for entry in tmp_path.iterdir()] == ["ledger.json"]


def test_a_store_is_described(atlas):
    bare = describe(atlas)
    assert bare.lines()[-1] == "no working copy"
    working = WorkingCopy.open(atlas)
    working.ledger.start("qc", "k")
    working.ledger.finish("qc", "k", seconds=2.0)
    working.ledger.start_fit("inspire", {}, {})
    working.put_vector("a", np.arange(5))
    found = describe(atlas)
    record = json.loads(json.dumps(found.record()))
    assert record["n_spots"] == 17
    assert record["slices"][0] == {"name": "slice_0", "table": "slice_0", "n_spots": 12}
    assert record["working_bytes"]["vectors"] > 0
    assert [stage["name"] for stage in record["stages"]] == ["qc"]
    assert "atlasnmf resume" in found.lines()[-1]
    assert record["results"] == {}


def test_what_a_dead_process_left_is_mended(atlas):
    working = WorkingCopy.open(atlas)
    working.put_vector("a", np.arange(3))
    (working.path / "vectors" / "a").rename(working.path / "vectors" / ".a.old")
    (working.path / ".spill-dead").mkdir()
    working.sweep()
    assert working.vector("a").tolist() == [0, 1, 2]
    assert not (working.path / ".spill-dead").exists()
