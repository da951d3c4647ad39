import numpy as np
import pytest
import spatialdata

from atlasnmf.errors import BadOption
from atlasnmf.events import Silent
from atlasnmf.simulate import plan_embryo, simulate_embryo, slice_blocks

SIZES = {"n_spots": 900, "n_slices": 3, "n_genes": 120, "n_factors": 6}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate_embryo(tmp_path_factory.mktemp("embryo") / "embryo.zarr", **SIZES, seed=2)


def test_spatialdata_reads_the_store_with_the_truth(store):
    embryo = plan_embryo(**SIZES, seed=2)
    tables = spatialdata.read_zarr(store).tables
    assert sorted(tables) == ["slice_1", "slice_2", "slice_3"]
    for s, name in enumerate(embryo.slices):
        table = tables[name]
        (block,) = slice_blocks(embryo, s)
        assert (block.counts.to_scipy() != table.X).nnz == 0
        assert table.obs_names.tolist() == block.names.tolist()
        assert table.var_names.tolist() == list(embryo.genes)
        np.testing.assert_array_equal(table.obsm["spatial"], block.spatial)
        np.testing.assert_array_equal(table.obsm["true_factors"], block.factors)
        np.testing.assert_allclose(table.obsm["true_factors"].sum(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(table.varm["true_loadings"], embryo.loadings)
        assert table.obs["domain"].cat.codes.tolist() == block.domain.tolist()
        assert set(table.obs["slice"]) == {name}
        truth = table.uns["truth"]
        assert list(truth["domains"]) == list(embryo.anatomy.names)
        assert truth["unit"] == "micrometre"
        np.testing.assert_array_equal(truth["gene_effects"], embryo.effects[s])


def test_an_atlas_opens_on_it(store):
    from atlasnmf.store.atlas import open_atlas

    atlas = open_atlas(store)
    assert [info.name for info in atlas.slices] == ["slice_1", "slice_2", "slice_3"]
    assert atlas.n_spots == 900
    atlas.check()


def test_the_same_seed_writes_the_same_bytes(store, tmp_path):
    again = simulate_embryo(tmp_path / "again.zarr", **SIZES, seed=2)
    files = sorted(path.relative_to(store) for path in store.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (store / file).read_bytes() == (again / file).read_bytes(), file


def test_a_store_is_replaced_only_when_asked(store, tmp_path):
    out = simulate_embryo(tmp_path / "out.zarr", **SIZES)
    before = (out / "zarr.json").read_bytes()
    with pytest.raises(BadOption, match="overwrite"):
        simulate_embryo(out, **SIZES)
    with pytest.raises(BadOption, match="too few"):
        simulate_embryo(out, **SIZES | {"n_spots": 5}, overwrite=True)
    assert (out / "zarr.json").read_bytes() == before
    simulate_embryo(out, **SIZES | {"n_slices": 1}, overwrite=True)
    assert list(spatialdata.read_zarr(out).tables) == ["slice_1"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]


def test_progress_adds_up(tmp_path):
    from contextlib import contextmanager

    seen = []

    class Counting(Silent):
        @contextmanager
        def stage(self, name, total=None, unit="spots"):
            seen.append((name, total))
            yield seen.append

    simulate_embryo(tmp_path / "out.zarr", **SIZES, events=Counting())
    assert seen[0] == ("simulate", 900)
    assert sum(seen[1:]) == 900


@pytest.mark.slow
def test_memory_does_not_grow_with_counts(tmp_path):
    import subprocess
    import sys

    script = (
        "import sys\n"
        "from atlasnmf.budget import peak_bytes\n"
        "from atlasnmf.simulate import simulate_embryo\n"
        "simulate_embryo(sys.argv[1], n_spots=int(sys.argv[2]), n_slices=2, n_genes=2000, n_factors=20)\n"
        "print(peak_bytes())"
    )
    peaks = [
        int(subprocess.check_output([sys.executable, "-c", script, str(tmp_path / f"{n}.zarr"), str(n)]))
        for n in (100_000, 400_000)
    ]
    # 300,000 spots more hold 1.6 kB of counts each; what may grow is 250 bytes a spot of the larger slice.
    assert peaks[1] - peaks[0] < 300_000 * 2 / 3 * 400
