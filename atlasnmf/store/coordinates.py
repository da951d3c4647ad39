"""Where the spots lie: obsm of the table, or the shapes, points or labels it annotates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.arrays import open_array
from atlasnmf.store.names import no_such
from atlasnmf.store.rasters import raster_centres
from atlasnmf.store.tables import Annotation, TableHandle

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

__all__ = ["Elements", "MemoryElements", "StoredElements", "coordinates_from", "coordinates_of"]

_AXES = ("x", "y", "z")


class Elements(Protocol):
    """The shapes, points and labels (segmentation rasters) of a store."""

    def kind(self, name: str) -> str | None:
        """Return ``shapes``, ``points``, ``labels`` or None."""
        ...

    def positions(self, name: str, coordinate_system: str) -> tuple[pd.Index, np.ndarray]:
        """Return instance ids and positions in the coordinate system, float64, shape (n, 2 or 3)."""
        ...


def coordinates_from(
    table: TableHandle, elements: Elements | None, coordinate_system: str, spatial_key: str
) -> str | Annotation:
    """Decide where the positions of a table come from: an obsm key, or what the table annotates.

    ``obsm[spatial_key]`` wins unless a coordinate system other than ``global`` is asked for.

    Raises
    ------
    BadInput
        There is neither.
    """
    annotation = table.annotation()
    usable = annotation is not None and elements is not None
    if spatial_key in table.keys("obsm") and not (usable and coordinate_system != "global"):
        return spatial_key
    if annotation is not None and elements is not None:
        return annotation
    has = ", ".join(table.keys("obsm"))
    mend = (
        f"name the obsm key of the positions by --spatial-key (obsm keys: {has})"
        if has
        else "put positions there, such as adata.obsm['spatial'] = adata.obs[['x', 'y']].to_numpy()"
    )
    raise BadInput(
        f"table {table.name!r} has no obsm[{spatial_key!r}] and annotates no shapes, points or labels; "
        f"{mend}; or leave the table out by --tables"
    )


def coordinates_of(
    table: TableHandle, elements: Elements | None, coordinate_system: str, spatial_key: str
) -> np.ndarray:
    """Return the positions of a table's spots in the user's order.

    Returns
    -------
    coordinates
        float64, shape (n_spots, 2 or 3), in the unit of the coordinate system.

    Raises
    ------
    BadInput
        No positions, or some are NaN or missing.
    BadOption
        The coordinate system does not exist.
    """
    source = coordinates_from(table, elements, coordinate_system, spatial_key)
    if isinstance(source, str):
        coordinates, where = table.obsm(source), f"obsm[{source!r}]"
    else:
        assert elements is not None
        coordinates, where = _annotated(table, elements, source, coordinate_system)
    if coordinates.ndim != 2 or coordinates.shape[1] not in (2, 3) or coordinates.dtype.kind not in "iuf":
        raise BadInput(
            f"positions of table {table.name!r} in {where} have shape {coordinates.shape} and type "
            f"{coordinates.dtype}; they must be numbers of shape (n_spots, 2) or (n_spots, 3)"
        )
    coordinates = np.ascontiguousarray(coordinates, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(coordinates).all(axis=1))
    if bad.size:
        first = table.obs_names()[bad[0]]
        raise BadInput(
            f"{bad.size} of {table.n_spots} spots of table {table.name!r} have NaN or missing coordinates in "
            f"{where} (the first is {first!r}); drop these spots or fill in their positions"
        )
    return coordinates


def _annotated(
    table: TableHandle, elements: Elements, annotation: Annotation, coordinate_system: str
) -> tuple[np.ndarray, str]:
    regions = np.asarray(table.obs_column(annotation.region_key)).astype(str)
    instances = np.asarray(table.obs_column(annotation.instance_key))
    coordinates: np.ndarray | None = None
    for region in annotation.regions:
        kind = elements.kind(region)
        if kind is None:
            raise BadInput(
                f"table {table.name!r} annotates {region!r}, which is no shapes, points or labels of the "
                "store; add it, or put positions in obsm['spatial']"
            )
        index, positions = elements.positions(region, coordinate_system)
        if not index.is_unique:
            twice = index[index.duplicated()][0]
            raise BadInput(
                f"{kind}/{region} has the id {twice!r} more than once; ids of {kind} must be unique"
            )
        rows = np.flatnonzero(regions == region)
        if coordinates is None:
            coordinates = np.full((table.n_spots, positions.shape[1]), np.nan)
        if positions.shape[1] != coordinates.shape[1]:
            raise BadInput(
                f"table {table.name!r} annotates elements of 2 and of 3 dimensions; use tables apart"
            )
        place = index.get_indexer(instances[rows])
        found_rows = rows[place >= 0]
        coordinates[found_rows] = positions[place[place >= 0]]
    where = f"the elements it annotates ({', '.join(annotation.regions)})"
    assert coordinates is not None
    return coordinates, where


class StoredElements:
    """Shapes, points and labels of a store on disk, read one at a time.

    Parameters
    ----------
    store
        The SpatialData store.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        #: Ids and centres of the rasters that were looked through, which takes a while.
        self._centres: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def kind(self, name: str) -> str | None:
        """Return the kind of an element."""
        for kind in ("shapes", "points", "labels"):
            if (self.store / kind / name).is_dir():
                return kind
        return None

    def positions(self, name: str, coordinate_system: str) -> tuple[pd.Index, np.ndarray]:
        """Return instance ids and positions.

        Raises
        ------
        BadInput
            The element is damaged.
        """
        kind = self.kind(name)
        path = self.store / str(kind) / name
        try:
            return self._read(name, kind, path, coordinate_system)
        except (KeyError, IndexError, OSError, ValueError, RuntimeError) as error:
            why = str(error).partition("\n")[0] or type(error).__name__
            raise BadInput(f"{path} is damaged and gives no positions ({why}); write it anew") from None

    def _read(
        self, name: str, kind: str | None, path: Path, coordinate_system: str
    ) -> tuple[pd.Index, np.ndarray]:
        if kind == "labels":
            return self._of_labels(name, path, coordinate_system)
        matrix = self._transformation(_attributes(path), f"{kind}/{name}", coordinate_system)
        if (path / "shapes.parquet").exists():
            import geopandas

            return _of_shapes(geopandas.read_parquet(path / "shapes.parquet", columns=["geometry"]), matrix)
        if (path / "points.parquet").exists():
            import pandas as pd
            import pyarrow.parquet

            schema = pyarrow.parquet.ParquetDataset(path / "points.parquet").schema
            axes = [axis for axis in _AXES if axis in schema.names]
            return _of_points(pd.read_parquet(path / "points.parquet", columns=axes), matrix)
        return self._old_format(name, coordinate_system)

    def _of_labels(self, name: str, path: Path, coordinate_system: str) -> tuple[pd.Index, np.ndarray]:
        attributes = _attributes(path)
        scales = attributes.get("ome", attributes)["multiscales"][0]
        matrix = self._transformation(scales, f"labels/{name}", coordinate_system)
        if name not in self._centres:
            array = open_array(path / scales["datasets"][0]["path"])
            self._centres[name] = raster_centres(array, array.shards or array.chunks)
        return _of_centres(*self._centres[name], matrix)

    def _old_format(self, name: str, coordinate_system: str) -> tuple[pd.Index, np.ndarray]:
        import warnings

        import spatialdata

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sdata = spatialdata.read_zarr(self.store, selection=("shapes", "points"))  # type: ignore[arg-type]
        return MemoryElements(sdata).positions(name, coordinate_system)

    def _transformation(self, attributes: Mapping[str, Any], name: str, coordinate_system: str) -> np.ndarray:
        stored = attributes.get("coordinateTransformations") or []
        by_system = {entry.get("output", {}).get("name"): entry for entry in stored}
        if coordinate_system not in by_system:
            raise BadOption(no_such("coordinate system", coordinate_system, map(str, by_system), name))
        entry = by_system[coordinate_system]
        if entry["type"] == "identity":
            return np.eye(4)
        from spatialdata.transformations import BaseTransformation
        from spatialdata.transformations.ngff.ngff_transformations import NgffBaseTransformation

        return _matrix(BaseTransformation.from_ngff(NgffBaseTransformation.from_dict(entry)))


class MemoryElements:
    """Shapes, points and labels of a SpatialData in memory.

    Parameters
    ----------
    sdata
        The object.
    """

    def __init__(self, sdata: SpatialData) -> None:
        self.sdata = sdata

    def kind(self, name: str) -> str | None:
        """Return the kind of an element."""
        for kind in ("shapes", "points", "labels"):
            if name in getattr(self.sdata, kind):
                return kind
        return None

    def positions(self, name: str, coordinate_system: str) -> tuple[pd.Index, np.ndarray]:
        """Return instance ids and positions."""
        from spatialdata.transformations import get_transformation

        element = self.sdata[name]
        known = get_transformation(element, get_all=True)
        if coordinate_system not in known:
            raise BadOption(no_such("coordinate system", coordinate_system, known, name))
        matrix = _matrix(known[coordinate_system])
        kind = self.kind(name)
        if kind == "labels":
            raster = _finest(element)
            return _of_centres(*raster_centres(raster, getattr(raster, "chunksize", raster.shape)), matrix)
        if kind == "shapes":
            return _of_shapes(element, matrix)
        axes = [axis for axis in _AXES if axis in element.columns]
        return _of_points(element[axes].compute(), matrix)


def _attributes(path: Path) -> dict[str, Any]:
    for name, read in (
        ("zarr.json", lambda text: text.get("attributes", {})),
        (".zattrs", lambda text: text),
    ):
        if (path / name).exists():
            return read(json.loads((path / name).read_text()))
    return {}


def _matrix(transformation: Any) -> np.ndarray:
    return np.asarray(transformation.to_affine_matrix(input_axes=_AXES, output_axes=_AXES), dtype=np.float64)


def _finest(element: Any) -> Any:
    """Return the pixels of a raster, of the first scale where it has several, in memory or not yet."""
    if hasattr(element, "children"):
        element = next(iter(next(iter(element.children.values())).data_vars.values()))
    return element.data


def _of_centres(ids: np.ndarray, centres: np.ndarray, matrix: np.ndarray) -> tuple[pd.Index, np.ndarray]:
    import pandas as pd

    return pd.Index(ids), _transformed(centres, matrix)


def _of_shapes(frame: Any, matrix: np.ndarray) -> tuple[pd.Index, np.ndarray]:
    geometry = frame.geometry
    is_point = bool((geometry.geom_type == "Point").all())
    centres = geometry if is_point else geometry.centroid
    columns = [centres.x.to_numpy(), centres.y.to_numpy()]
    if is_point and len(centres) and bool(centres.has_z.all()):
        columns.append(centres.z.to_numpy())
    return frame.index, _transformed(np.column_stack(columns), matrix)


def _of_points(frame: Any, matrix: np.ndarray) -> tuple[pd.Index, np.ndarray]:
    return frame.index, _transformed(frame.to_numpy(dtype=np.float64), matrix)


def _transformed(positions: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    n_axes = positions.shape[1]
    return positions @ matrix[:n_axes, :n_axes].T + matrix[:n_axes, 3]
