"""Positions from the cells of a segmentation raster, against spatialdata's own centroids."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.rasters import raster_centres

with warnings.catch_warnings():  # what these packages say at import is not ours to mend
    warnings.simplefilter("ignore")
    import spatialdata
    from spatialdata._io.format import SpatialDataContainerFormatV01
    from spatialdata.models import Labels2DModel, Labels3DModel, TableModel
    from spatialdata.transformations import Affine

_TURNED = np.array([[0, 2.0, 10], [3, 0, -5], [0, 0, 1]])


def cells(n_cells: int, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A raster in which every id has some pixels, anywhere; ids with gaps, about half of it background."""
    rng = np.random.default_rng(seed)
    ids = 1 + 3 * np.arange(n_cells)
    pixels = np.concatenate([np.repeat(ids, 4), rng.choice([0, *ids], np.prod(shape) - 4 * n_cells)])
    pixels[4 * n_cells :][rng.random(len(pixels) - 4 * n_cells) < 0.5] = 0
    return rng.permutation(pixels).reshape(shape).astype(np.int32)


def segmented(new_table, rasters: dict[str, np.ndarray], **how) -> spatialdata.SpatialData:
    """One table without positions that annotates rasters, in another order than their ids."""
    regions, instances = [], []
    for name, raster in rasters.items():
        ids = np.random.default_rng(1).permutation(np.unique(raster[raster > 0]))
        regions += [name] * len(ids)
        instances += ids.tolist()
    table = new_table(len(regions))
    del table.obsm["spatial"]
    table.obs["region"], table.obs["cell_id"] = pd.Categorical(regions), instances
    table = TableModel.parse(table, region=list(rasters), region_key="region", instance_key="cell_id")
    turned = Affine(_TURNED, input_axes=("x", "y"), output_axes=("x", "y"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = {
            name: (Labels2DModel if raster.ndim == 2 else Labels3DModel).parse(
                raster, dims=("z", "y", "x")[-raster.ndim :], transformations={"global": turned}, **how
            )
            for name, raster in rasters.items()
        }
        return spatialdata.SpatialData(labels=labels, tables={"table": table})


def centroids(sdata: spatialdata.SpatialData) -> np.ndarray:
    """What spatialdata finds, in the order of the table's rows."""
    axes = [axis for axis in ("x", "y", "z") if axis in next(iter(sdata.labels.values())).dims]
    own = {name: spatialdata.get_centroids(raster).compute() for name, raster in sdata.labels.items()}
    obs = sdata.tables["table"].obs
    return np.array(
        [own[r].loc[i, axes].to_numpy() for r, i in zip(obs["region"], obs["cell_id"], strict=True)]
    )


def written(sdata: spatialdata.SpatialData, path: Path, **how) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sdata.write(path, **how)
    return path


@pytest.mark.parametrize("shape", [(23, 31), (4, 9, 12)])
def test_positions_are_the_centroids_of_spatialdata(tmp_path, new_table, shape):
    sdata = segmented(new_table, {"left": cells(9, shape), "right": cells(5, shape, 1)})
    expected = centroids(sdata)
    in_memory = open_atlas(sdata)
    assert [info.n_spots for info in in_memory.slices] == [9, 5]
    np.testing.assert_allclose(in_memory.coordinates(), expected, rtol=1e-12)
    stored = open_atlas(written(sdata, tmp_path / "a.zarr"))
    np.testing.assert_array_equal(stored.coordinates(), in_memory.coordinates())


def test_the_finest_of_several_scales_is_taken(tmp_path, new_table):
    raster = cells(6, (32, 40))
    expected = open_atlas(segmented(new_table, {"left": raster})).coordinates()
    several = segmented(new_table, {"left": raster}, scale_factors=[2, 2])
    np.testing.assert_array_equal(open_atlas(several).coordinates(), expected)
    path = written(several, tmp_path / "a.zarr")
    assert len(list((path / "labels" / "left").glob("s*"))) == 3
    np.testing.assert_array_equal(open_atlas(path).coordinates(), expected)


def test_stores_of_the_second_zarr_format_are_read_alike(tmp_path, new_table):
    sdata = segmented(new_table, {"left": cells(6, (20, 20))})
    path = written(sdata, tmp_path / "a.zarr", sdata_formats=SpatialDataContainerFormatV01())
    assert (path / "labels" / "left" / ".zattrs").exists()
    np.testing.assert_array_equal(open_atlas(path).coordinates(), open_atlas(sdata).coordinates())


@pytest.mark.parametrize("chunk", [(1, 1), (7, 5), (23, 31), (64, 64)])
def test_a_cut_raster_has_the_same_bits(chunk, monkeypatch):
    raster = cells(12, (23, 31))
    ids, centres = raster_centres(raster, raster.shape)
    monkeypatch.setattr("atlasnmf.store.rasters._RUN_PIXELS", 13)
    again, same = raster_centres(raster, chunk)
    np.testing.assert_array_equal(again, ids)
    np.testing.assert_array_equal(same, centres)


def test_background_alone_has_no_cells():
    ids, centres = raster_centres(np.zeros((5, 4), np.uint16), (2, 2))
    assert (len(ids), centres.shape) == (0, (0, 2))


def test_rows_without_a_cell_are_refused(tmp_path, new_table):
    sdata = segmented(new_table, {"left": cells(6, (20, 20))})
    sdata.tables["table"].obs["cell_id"] += 1
    atlas = open_atlas(written(sdata, tmp_path / "a.zarr"))
    with pytest.raises(BadInput, match=r"6 of 6 spots .* missing coordinates in the elements it annotates"):
        atlas.check()
    other = open_atlas(tmp_path / "a.zarr", coordinate_system="globe")
    with pytest.raises(BadOption, match="no coordinate system 'globe' in labels/left"):
        other.coordinates()


@pytest.mark.parametrize("broken", ["torn chunk", "no pixels", "no metadata"])
def test_a_damaged_raster_is_named(tmp_path, new_table, broken):
    path = written(segmented(new_table, {"left": cells(6, (20, 20))}), tmp_path / "a.zarr")
    raster = path / "labels" / "left"
    if broken == "torn chunk":
        (chunk,) = (file for file in (raster / "s0" / "c").rglob("*") if file.is_file())
        chunk.write_bytes(chunk.read_bytes()[:10])
    elif broken == "no pixels":
        shutil.rmtree(raster / "s0")
    else:
        (raster / "zarr.json").write_text("{}")
    with pytest.raises(
        BadInput, match=r"labels/left is damaged and gives no positions \(.+\); write it anew"
    ):
        open_atlas(path).check()


def test_damaged_shapes_are_named(stores):
    path, _ = stores.xenium()
    shapes = path / "shapes" / "cell_circles" / "shapes.parquet"
    shapes.write_bytes(shapes.read_bytes()[:100])
    with pytest.raises(BadInput, match="cell_circles is damaged and gives no positions"):
        open_atlas(path).check()


def test_a_changed_raster_changes_the_fingerprint(tmp_path, new_table):
    one, two = (
        written(segmented(new_table, {"left": cells(6, (20, 20), seed)}), tmp_path / f"{seed}.zarr")
        for seed in (0, 1)
    )
    parts = open_atlas(one).fingerprint_parts(), open_atlas(two).fingerprint_parts()
    different = {name for name in parts[0] if parts[0][name] != parts[1][name]}
    assert different == {"coordinates of table"}
