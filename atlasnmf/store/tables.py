"""One table of an atlas, on disk or in memory, its columns read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.arrays import open_group
from atlasnmf.store.counts import CountSource, MemoryCounts, stored_counts
from atlasnmf.store.names import no_such

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "RESULT_MARK",
    "Annotation",
    "MemoryTable",
    "StoredTable",
    "TableHandle",
    "column_values",
    "repeated",
    "twice_in",
]

#: Names hashed at a time when looking for duplicates.
_NAMES_BLOCK = 1 << 18
#: Marks tables written by a fit, in their uns.
RESULT_MARK = "atlasnmf"


@dataclass(frozen=True)
class Annotation:
    """Which elements a table annotates.

    Parameters
    ----------
    regions
        Names of the shapes, points or labels.
    region_key, instance_key
        obs columns with the element of each spot and its id there.
    """

    regions: tuple[str, ...]
    region_key: str
    instance_key: str

    @classmethod
    def of(cls, attrs: Any) -> Annotation | None:
        """Read SpatialData's table attributes; None when the table annotates nothing."""
        if not attrs or attrs.get("region") is None or attrs.get("instance_key") is None:
            return None
        regions = attrs["region"]
        names = [regions] if isinstance(regions, str) else list(regions)
        return cls(tuple(str(name) for name in names), str(attrs["region_key"]), str(attrs["instance_key"]))


class TableHandle(Protocol):
    """A table whose parts are read when asked for."""

    name: str
    n_spots: int
    n_genes: int

    @property
    def counts(self) -> CountSource:
        """The counts, opened at first use."""
        ...

    def index_key(self, axis: str) -> str:
        """Return what the names of ``obs`` or ``var`` are stored as."""
        ...

    def obs_names(self) -> np.ndarray:
        """Return spot names, object array of str, shape (n_spots,)."""
        ...

    def iter_obs_names(self) -> Iterator[np.ndarray]:
        """Yield spot names block by block."""
        ...

    def var_names(self) -> np.ndarray:
        """Return gene names, object array of str, shape (n_genes,)."""
        ...

    def obs_columns(self) -> tuple[str, ...]:
        """Return the names of the obs columns, in order."""
        ...

    def obs_column(self, key: str) -> Any:
        """Return an obs column: a numpy array or a pandas extension array such as Categorical."""
        ...

    def keys(self, group: str) -> tuple[str, ...]:
        """Return the keys of ``obsm``, ``varm``, ``layers`` or ``uns``."""
        ...

    def obsm(self, key: str) -> np.ndarray:
        """Return an obsm array in memory, shape (n_spots, k)."""
        ...

    def obsm_rows(self, key: str, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop`` of an obsm array."""
        ...

    def varm(self, key: str) -> np.ndarray:
        """Return a varm array, shape (n_genes, k)."""
        ...

    def uns(self, key: str) -> Any:
        """Return an entry of uns."""
        ...

    def uns_keys(self, key: str) -> tuple[str, ...]:
        """Return the names inside an entry of uns without reading it; none when it is no mapping."""
        ...

    def annotation(self) -> Annotation | None:
        """Return which elements the table annotates."""
        ...


class StoredTable:
    """A table of a SpatialData store, opened as a zarr group and never loaded.

    Parameters
    ----------
    path
        ``<store>/tables/<name>``.
    layer
        Layer with the counts; None for X.
    """

    def __init__(self, path: Path, layer: str | None = None) -> None:
        self.path = path
        self.name = path.name
        self.layer = layer
        self._group = open_group(path)
        self.n_spots = self._axis_size("obs")
        self.n_genes = self._axis_size("var")
        self._counts: CountSource | None = None

    def index_key(self, axis: str) -> str:
        """Return the name of the array with the names of ``obs`` or ``var``."""
        return str(self._group[axis].attrs["_index"])

    def _axis_size(self, axis: str) -> int:
        try:
            return int(self._group[axis][self.index_key(axis)].shape[0])
        except KeyError:
            raise BadInput(f"table {self.name!r} of {self.path.parents[1]} has no {axis} index") from None

    @property
    def counts_path(self) -> Path:
        """Where the counts lie."""
        return self.path / "layers" / self.layer if self.layer else self.path / "X"

    @property
    def counts(self) -> CountSource:
        """The counts, opened at first use."""
        if self._counts is None:
            where = (
                f"layer {self.layer!r} of table {self.name!r}" if self.layer else f"X of table {self.name!r}"
            )
            if not self.counts_path.exists():
                raise BadInput(f"table {self.name!r} has no X; name the layer with the counts by --layer")
            self._counts = stored_counts(self.counts_path, where)
        return self._counts

    def _read(self, *where: str) -> Any:
        from anndata.io import read_elem

        node = self._group
        for name in where:
            node = node[name]
        return read_elem(node)

    def obs_names(self) -> np.ndarray:
        """Return spot names, object array of str."""
        return _strings(self._read("obs", self.index_key("obs")))

    def iter_obs_names(self) -> Iterator[np.ndarray]:
        """Yield spot names block by block."""
        index = self._group["obs"][self.index_key("obs")]
        if not hasattr(index, "chunks"):
            yield self.obs_names()
            return
        step = max(_NAMES_BLOCK // index.chunks[0], 1) * index.chunks[0]
        for start in range(0, self.n_spots, step):
            yield _strings(index[start : start + step])

    def var_names(self) -> np.ndarray:
        """Return gene names, object array of str."""
        return _strings(self._read("var", self.index_key("var")))

    def obs_columns(self) -> tuple[str, ...]:
        """Return the names of the obs columns, in order."""
        return tuple(str(name) for name in self._group["obs"].attrs.get("column-order", []))

    def obs_column(self, key: str) -> Any:
        """Return an obs column."""
        _require(key, self.obs_columns(), "obs column", self.name)
        values = self._read("obs", key)
        # pandas does not know numpy's own strings
        return _strings(values) if getattr(values.dtype, "kind", "") == "T" else values

    def keys(self, group: str) -> tuple[str, ...]:
        """Return the keys of a group of the table."""
        return tuple(sorted(self._group[group])) if group in self._group else ()

    def obsm(self, key: str) -> np.ndarray:
        """Return an obsm array in memory."""
        _require(key, self.keys("obsm"), "obsm key", self.name)
        return _plain(self._read("obsm", key))

    def obsm_rows(self, key: str, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop`` of an obsm array."""
        _require(key, self.keys("obsm"), "obsm key", self.name)
        node = self._group["obsm"][key]
        return node[start:stop] if hasattr(node, "chunks") else self.obsm(key)[start:stop]

    def varm(self, key: str) -> np.ndarray:
        """Return a varm array."""
        _require(key, self.keys("varm"), "varm key", self.name)
        return _plain(self._read("varm", key))

    def uns(self, key: str) -> Any:
        """Return an entry of uns."""
        _require(key, self.keys("uns"), "uns key", self.name)
        return self._read("uns", key)

    def uns_keys(self, key: str) -> tuple[str, ...]:
        """Return the names inside an entry of uns without reading it."""
        node = self._group["uns"][key]
        return tuple(node) if hasattr(node, "keys") else ()

    def annotation(self) -> Annotation | None:
        """Return which elements the table annotates."""
        attrs = self._group.attrs
        return Annotation.of({name: attrs.get(name) for name in ("region", "region_key", "instance_key")})


class MemoryTable:
    """A table held by the user as an AnnData.

    Parameters
    ----------
    adata
        The table; results are assigned to it.
    name
        Its name.
    layer
        Layer with the counts; None for X.
    """

    def __init__(self, adata: AnnData, name: str, layer: str | None = None) -> None:
        self.adata = adata
        self.name = name
        self.layer = layer
        self.n_spots, self.n_genes = adata.shape
        self._counts: CountSource | None = None

    @property
    def counts(self) -> CountSource:
        """The counts."""
        if self._counts is None:
            where = (
                f"layer {self.layer!r} of table {self.name!r}" if self.layer else f"X of table {self.name!r}"
            )
            matrix = self.adata.layers[self.layer] if self.layer else self.adata.X
            if matrix is None:
                raise BadInput(f"table {self.name!r} has no X; name the layer with the counts")
            self._counts = MemoryCounts(matrix, where)
        return self._counts

    def index_key(self, axis: str) -> str:
        """Return what the names of ``obs`` or ``var`` would be stored as."""
        return str(getattr(self.adata, axis).index.name or "_index")

    def obs_names(self) -> np.ndarray:
        """Return spot names, object array of str."""
        return _strings(self.adata.obs_names)

    def iter_obs_names(self) -> Iterator[np.ndarray]:
        """Yield spot names."""
        yield self.obs_names()

    def var_names(self) -> np.ndarray:
        """Return gene names, object array of str."""
        return _strings(self.adata.var_names)

    def obs_columns(self) -> tuple[str, ...]:
        """Return the names of the obs columns, in order."""
        return tuple(str(name) for name in self.adata.obs.columns)

    def obs_column(self, key: str) -> Any:
        """Return an obs column."""
        _require(key, self.obs_columns(), "obs column", self.name)
        return column_values(self.adata.obs[key])

    def keys(self, group: str) -> tuple[str, ...]:
        """Return the keys of a group of the table."""
        return tuple(sorted(getattr(self.adata, group).keys()))

    def obsm(self, key: str) -> np.ndarray:
        """Return an obsm array."""
        _require(key, self.keys("obsm"), "obsm key", self.name)
        return _plain(self.adata.obsm[key])

    def obsm_rows(self, key: str, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop`` of an obsm array."""
        return self.obsm(key)[start:stop]

    def varm(self, key: str) -> np.ndarray:
        """Return a varm array."""
        _require(key, self.keys("varm"), "varm key", self.name)
        return _plain(self.adata.varm[key])

    def uns(self, key: str) -> Any:
        """Return an entry of uns."""
        _require(key, self.keys("uns"), "uns key", self.name)
        return self.adata.uns[key]

    def uns_keys(self, key: str) -> tuple[str, ...]:
        """Return the names inside an entry of uns."""
        entry = self.adata.uns[key]
        return tuple(entry) if isinstance(entry, Mapping) else ()

    def annotation(self) -> Annotation | None:
        """Return which elements the table annotates."""
        return Annotation.of(self.adata.uns.get("spatialdata_attrs"))


def twice_in(names: np.ndarray) -> str | None:
    """Return a name that occurs twice among names in memory, or None.

    Examples
    --------
    >>> twice_in(np.array(["a", "b", "a"], dtype=object))
    'a'
    """
    import pandas as pd

    index = pd.Index(names)
    return str(index[index.duplicated()][0]) if not index.is_unique else None


def repeated(blocks: Callable[[], Iterable[np.ndarray]]) -> str | None:
    """Return a name that occurs twice, or None; holds 16 bytes a name.

    Parameters
    ----------
    blocks
        Returns the names block by block; called again when two names may be the same.

    Examples
    --------
    >>> repeated(lambda: [np.array(["a", "b"], dtype=object), np.array(["a"], dtype=object)])
    'a'
    """
    import pandas as pd

    hashes = [pd.util.hash_array(block, categorize=False) for block in blocks()]
    merged = np.concatenate(hashes) if hashes else np.empty(0, dtype=np.uint64)
    merged.sort()
    suspects = np.unique(merged[1:][merged[1:] == merged[:-1]])
    if not suspects.size:
        return None
    seen: set[str] = set()
    for block, own in zip(blocks(), hashes, strict=True):
        for name in block[np.isin(own, suspects)]:
            if name in seen:
                return str(name)
            seen.add(name)
    return None


def column_values(column: Any) -> Any:
    """Return the values of a pandas column: a numpy array, or an extension array such as Categorical."""
    return column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array


def _require(key: str, known: Sequence[str], kind: str, table: str) -> None:
    if key not in known:
        raise BadOption(no_such(kind, key, known, f"table {table!r}"))


def _strings(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=object)


def _plain(values: Any) -> np.ndarray:
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if hasattr(values, "compute"):
        values = values.compute()
    return np.asarray(values)
