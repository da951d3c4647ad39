"""One table of an atlas, on disk or in memory, its columns read one at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


class TableHandle(ABC):
    """A table whose parts are read when asked for.

    Parameters
    ----------
    name
        Its name.
    layer
        Layer with the counts; None for X.
    """

    n_spots: int
    n_genes: int

    def __init__(self, name: str, layer: str | None) -> None:
        self.name = name
        self.layer = layer

    @abstractmethod
    def _read(self, group: str, key: str) -> Any:
        """Return an entry of obs, obsm, varm or uns that is there."""

    @abstractmethod
    def _open_counts(self, where: str) -> CountSource | None:
        """Open the counts, which messages call ``where``; None when there are none."""

    @abstractmethod
    def _names(self, axis: str) -> Any:
        """Return the names of ``obs`` or ``var``."""

    @abstractmethod
    def index_key(self, axis: str) -> str:
        """Return what the names of ``obs`` or ``var`` are stored as."""

    @abstractmethod
    def obs_columns(self) -> tuple[str, ...]:
        """Return the names of the obs columns, in order."""

    @abstractmethod
    def _keys(self, group: str) -> Iterable[str]:
        """Return the keys of ``obsm``, ``varm``, ``layers`` or ``uns``."""

    @abstractmethod
    def uns_keys(self, key: str) -> tuple[str, ...]:
        """Return the names inside an entry of uns without reading it; none when it is no mapping."""

    @abstractmethod
    def annotation(self) -> Annotation | None:
        """Return which elements the table annotates."""

    def keys(self, group: str) -> tuple[str, ...]:
        """Return the keys of ``obsm``, ``varm``, ``layers`` or ``uns``, sorted, or the columns of ``obs``."""
        return self.obs_columns() if group == "obs" else tuple(sorted(self._keys(group)))

    @cached_property
    def counts(self) -> CountSource:
        """The counts, opened at first use."""
        found = self._open_counts(f"{f'layer {self.layer!r}' if self.layer else 'X'} of table {self.name!r}")
        if found is None:
            raise BadInput(f"table {self.name!r} has no X; name the layer with the counts by --layer")
        return found

    def obs_names(self) -> np.ndarray:
        """Return spot names, object array of str, shape (n_spots,)."""
        return _strings(self._names("obs"))

    def iter_obs_names(self) -> Iterator[np.ndarray]:
        """Yield spot names block by block."""
        yield self.obs_names()

    def var_names(self) -> np.ndarray:
        """Return gene names, object array of str, shape (n_genes,)."""
        return _strings(self._names("var"))

    def obs_column(self, key: str) -> Any:
        """Return an obs column: a numpy array or a pandas extension array such as Categorical."""
        return self._read("obs", self._known("obs", key))

    def obsm(self, key: str) -> np.ndarray:
        """Return an obsm array in memory, shape (n_spots, k)."""
        return _plain(self._read("obsm", self._known("obsm", key)))

    def obsm_rows(self, key: str, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop`` of an obsm array."""
        return self.obsm(key)[start:stop]

    def varm(self, key: str) -> np.ndarray:
        """Return a varm array, shape (n_genes, k)."""
        return _plain(self._read("varm", self._known("varm", key)))

    def uns(self, key: str) -> Any:
        """Return an entry of uns."""
        return self._read("uns", self._known("uns", key))

    def _known(self, group: str, key: str) -> str:
        """Return a key that is there; raises BadOption naming the nearest for one that is not."""
        known = self.keys(group)
        if key not in known:
            kind = "obs column" if group == "obs" else f"{group} key"
            raise BadOption(no_such(kind, key, known, f"table {self.name!r}"))
        return key


class StoredTable(TableHandle):
    """A table of a SpatialData store, opened as a zarr group and never loaded.

    Parameters
    ----------
    path
        ``<store>/tables/<name>``.
    layer
        Layer with the counts; None for X.
    """

    def __init__(self, path: Path, layer: str | None = None) -> None:
        super().__init__(path.name, layer)
        self.path = path
        self._group = open_group(path)
        self.n_spots = self._axis_size("obs")
        self.n_genes = self._axis_size("var")

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

    def _open_counts(self, where: str) -> CountSource | None:
        return stored_counts(self.counts_path, where) if self.counts_path.exists() else None

    def _read(self, group: str, key: str) -> Any:
        from anndata.io import read_elem

        values = read_elem(self._group[group][key])
        # pandas does not know numpy's own strings
        strings = group == "obs" and getattr(values.dtype, "kind", "") == "T"
        return _strings(values) if strings else values

    def _names(self, axis: str) -> Any:
        return self._read(axis, self.index_key(axis))

    def iter_obs_names(self) -> Iterator[np.ndarray]:
        """Yield spot names block by block."""
        index = self._group["obs"][self.index_key("obs")]
        if not hasattr(index, "chunks"):
            yield self.obs_names()
            return
        step = max(_NAMES_BLOCK // index.chunks[0], 1) * index.chunks[0]
        for start in range(0, self.n_spots, step):
            yield _strings(index[start : start + step])

    def obs_columns(self) -> tuple[str, ...]:
        """Return the names of the obs columns, in order."""
        return tuple(str(name) for name in self._group["obs"].attrs.get("column-order", []))

    def _keys(self, group: str) -> Iterable[str]:
        return self._group.get(group, ())

    def obsm_rows(self, key: str, start: int, stop: int) -> np.ndarray:
        """Return rows ``start`` to ``stop`` of an obsm array."""
        node = self._group["obsm"][self._known("obsm", key)]
        return node[start:stop] if hasattr(node, "chunks") else self.obsm(key)[start:stop]

    def uns_keys(self, key: str) -> tuple[str, ...]:
        """Return the names inside an entry of uns without reading it."""
        node = self._group["uns"][key]
        return tuple(node) if hasattr(node, "keys") else ()

    def annotation(self) -> Annotation | None:
        """Return which elements the table annotates."""
        attrs = self._group.attrs
        return Annotation.of({name: attrs.get(name) for name in ("region", "region_key", "instance_key")})


class MemoryTable(TableHandle):
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
        super().__init__(name, layer)
        self.adata = adata
        self.n_spots, self.n_genes = adata.shape

    def _open_counts(self, where: str) -> CountSource | None:
        matrix = self.adata.layers[self.layer] if self.layer else self.adata.X
        return None if matrix is None else MemoryCounts(matrix, where)

    def _read(self, group: str, key: str) -> Any:
        entry = getattr(self.adata, group)[key]
        return column_values(entry) if group == "obs" else entry

    def _names(self, axis: str) -> Any:
        return getattr(self.adata, f"{axis}_names")

    def index_key(self, axis: str) -> str:
        """Return what the names of ``obs`` or ``var`` would be stored as."""
        return str(getattr(self.adata, axis).index.name or "_index")

    def obs_columns(self) -> tuple[str, ...]:
        """Return the names of the obs columns, in order."""
        return tuple(str(name) for name in self.adata.obs.columns)

    def _keys(self, group: str) -> Iterable[str]:
        return getattr(self.adata, group).keys()

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


def _strings(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=object)


def _plain(values: Any) -> np.ndarray:
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if hasattr(values, "compute"):
        values = values.compute()
    return np.asarray(values)
