"""Small stores as the readers of the platforms write them, and ways to compare stores."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

with warnings.catch_warnings():  # what these packages say at import is not ours to mend
    warnings.simplefilter("ignore")
    import anndata
    import geopandas
    import shapely
    import spatialdata
    from spatialdata.models import PointsModel, ShapesModel, TableModel
    from spatialdata.transformations import Affine, Identity, Scale, Sequence, Translation

N_GENES = 12


def make_table(n_spots: int, seed: int = 0, genes: list[str] | None = None) -> anndata.AnnData:
    """Counts with a few empty spots, names, positions in obsm."""
    rng = np.random.default_rng(seed)
    names = genes or [f"g{i}" for i in range(N_GENES)]
    dense = rng.poisson(0.8, (n_spots, len(names))).astype(np.float32)
    dense[n_spots // 3] = 0
    return anndata.AnnData(
        scipy.sparse.csr_matrix(dense),
        obs=pd.DataFrame(index=[f"s{seed}_{i}" for i in range(n_spots)]),
        var=pd.DataFrame(index=names),
        obsm={"spatial": rng.uniform(0, 100, (n_spots, 2))},
    )


def annotate(
    table: anndata.AnnData, regions: list[str], region_of: list[str] | None = None
) -> anndata.AnnData:
    """Let a table annotate regions, ids counting up from 0 within each."""
    of = np.asarray(region_of or [regions[0]] * table.n_obs)
    ids = np.empty(table.n_obs, dtype=np.int64)
    for region in regions:
        ids[of == region] = np.arange((of == region).sum())
    table.obs["region"] = pd.Categorical(of, categories=regions)
    table.obs["instance"] = ids
    region = regions[0] if len(regions) == 1 else regions
    return TableModel.parse(table, region=region, region_key="region", instance_key="instance")


def write(path: Path, **elements: dict) -> Path:
    """Write a SpatialData store without the warnings of the libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spatialdata.SpatialData(**elements).write(path)
    return path


def dense(table: anndata.AnnData) -> np.ndarray:
    """Counts of a small table as an array."""
    return np.asarray(table.X.todense()) if scipy.sparse.issparse(table.X) else np.asarray(table.X)


class Stores:
    """Makes stores in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plain(
        self, *tables: anndata.AnnData, name: str = "plain.zarr", names: list[str] | None = None
    ) -> Path:
        """Tables with obsm["spatial"], annotating nothing."""
        names = names or [f"slice_{i}" for i in range(len(tables))]
        parsed = {key: TableModel.parse(table) for key, table in zip(names, tables, strict=True)}
        return write(self.folder / name, tables=parsed)

    def visium(self) -> tuple[Path, np.ndarray]:
        """As spatialdata-io's visium: circles scaled to images, one table annotating them, obsm too."""
        table = make_table(15)
        pixels = np.random.default_rng(9).uniform(0, 1000, (15, 2))
        table.obsm["spatial"] = pixels
        circles = ShapesModel.parse(
            pixels,
            geometry=0,
            radius=5.0,
            index=np.arange(15),
            transformations={"global": Identity(), "lowres": Scale([0.1, 0.2], axes=("x", "y"))},
        )
        table = annotate(table, ["V1"])
        path = write(self.folder / "visium.zarr", shapes={"V1": circles}, tables={"table": table})
        return path, pixels

    def visium_hd(self) -> tuple[Path, dict[str, np.ndarray]]:
        """As visium_hd: square bins as polygons, a table for each bin size."""
        shapes, tables, centres = {}, {}, {}
        for size, n_side in ((8, 4), (16, 2)):
            xy = np.stack(np.meshgrid(np.arange(n_side), np.arange(n_side)), -1).reshape(-1, 2) * float(size)
            boxes = geopandas.GeoDataFrame(geometry=[shapely.box(x, y, x + size, y + size) for x, y in xy])
            name = f"square_{size:03d}um"
            shapes[f"hd_{name}"] = ShapesModel.parse(
                boxes, transformations={"global": Scale([0.5, 0.5], axes=("x", "y"))}
            )
            table = make_table(n_side**2, seed=size)
            del table.obsm["spatial"]
            tables[name] = annotate(table, [f"hd_{name}"])
            centres[name] = (xy + size / 2) * 0.5
        return write(self.folder / "hd.zarr", shapes=shapes, tables=tables), centres

    def xenium(self, *, shuffled: bool = False) -> tuple[Path, np.ndarray]:
        """As xenium: cell circles whose ids are strings, in another order than the table's rows."""
        table = make_table(10)
        del table.obsm["spatial"]
        xy = np.random.default_rng(3).uniform(0, 50, (10, 2))
        ids = np.array([f"cell-{i}" for i in range(10)])
        order = np.random.default_rng(4).permutation(10) if shuffled else np.arange(10)
        circles = ShapesModel.parse(
            xy[order],
            geometry=0,
            radius=1.0,
            index=ids[order],
            transformations={"global": Scale([1 / 0.2125, 1 / 0.2125], axes=("x", "y"))},
        )
        table.obs["region"] = pd.Categorical(["cell_circles"] * 10)
        table.obs["cell_id"] = ids
        table = TableModel.parse(table, region="cell_circles", region_key="region", instance_key="cell_id")
        path = write(self.folder / "xenium.zarr", shapes={"cell_circles": circles}, tables={"table": table})
        return path, xy / 0.2125

    def merscope(self) -> tuple[Path, np.ndarray]:
        """As merscope: cell polygons in micrometres, an affine to pixels as the global system."""
        table = make_table(6)
        del table.obsm["spatial"]
        xy = np.random.default_rng(5).uniform(0, 30, (6, 2))
        cells = geopandas.GeoDataFrame(geometry=[shapely.Point(*p).buffer(1.0) for p in xy])
        matrix = np.array([[0, 2, 10], [3, 0, -5], [0, 0, 1.0]])
        polygons = ShapesModel.parse(
            cells,
            transformations={
                "global": Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y")),
                "microns": Sequence([Identity(), Translation([1.0, 2.0], axes=("x", "y"))]),
            },
        )
        table = annotate(table, ["cells_polygons"])
        path = write(
            self.folder / "merscope.zarr", shapes={"cells_polygons": polygons}, tables={"table": table}
        )
        return path, np.column_stack([2 * xy[:, 1] + 10, 3 * xy[:, 0] - 5])

    def stereoseq(self) -> tuple[Path, np.ndarray]:
        """As stereoseq: a table of bins that annotates points, another of cells with obsm."""
        bins, cells = make_table(8), make_table(5, seed=1)
        del bins.obsm["spatial"]
        xy = np.random.default_rng(6).uniform(0, 30, (8, 2))
        points = PointsModel.parse(xy, transformations={"global": Scale([2.0, 2.0], axes=("x", "y"))})
        tables = {"bin50_table": annotate(bins, ["bin50_genes"]), "cells_table": TableModel.parse(cells)}
        path = write(self.folder / "stereo.zarr", points={"bin50_genes": points}, tables=tables)
        return path, 2 * xy

    def regions(self) -> Path:
        """One table that annotates two regions of circles."""
        table = make_table(9)
        circles = {
            name: ShapesModel.parse(np.random.default_rng(i).uniform(0, 9, (n, 2)), geometry=0, radius=1.0)
            for i, (name, n) in enumerate((("left", 5), ("right", 4)))
        }
        table = annotate(table, ["left", "right"], ["left", "right"] * 4 + ["left"])
        return write(self.folder / "regions.zarr", shapes=circles, tables={"table": table})


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    """Builders of small stores."""
    return Stores(tmp_path)


@pytest.fixture
def new_table() -> Callable[..., anndata.AnnData]:
    """Builder of small tables."""
    return make_table


@pytest.fixture
def as_array() -> Callable[..., np.ndarray]:
    """Counts of a small table as an array."""
    return dense


@pytest.fixture
def tree_hash() -> Callable[[Path], dict[str, str]]:
    """Hash of every file under a folder, by its path."""

    def hashes(root: Path) -> dict[str, str]:
        return {
            str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(root.rglob("*"))
            if file.is_file()
        }

    return hashes


@pytest.fixture
def read_store() -> Callable[[Path], spatialdata.SpatialData]:
    """Read a store with spatialdata itself, warnings as errors."""

    def read(path: Path) -> spatialdata.SpatialData:
        return spatialdata.read_zarr(path)

    return read
