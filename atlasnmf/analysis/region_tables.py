"""Regions of spots, and whatever results are tables, as CSV or Parquet, in and out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.spots import stored_labels
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import opened
from atlasnmf.store.paths import new_file, new_folder
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["read_regions", "write_frame", "write_regions", "write_tables"]

#: What the figures of a fit speak of, and how the names of these figures begin.
_AXES: dict[str, tuple[str, ...]] = {
    "slices": ("n_spots",),
    "ranks": ("instability", "sketch_error"),
    "genes": ("platform_scaling",),
}
#: Columns that name rows, in the order they are written in.
_NAMING = (
    *("slices", "slice", "ranks", "genes", "table", "source", "target", "region", "domain", "layer"),
    *("gene_set", "factor", "pattern", "rank", "gene", "step"),
)


def write_frame(frame: pd.DataFrame, path: Path, *, refusal: str = "tables are written as") -> Path:
    """Write a table as the ending of the path says; raises BadOption for one that is none of a table."""
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    else:
        raise BadOption(f"{refusal} .csv, .tsv or .parquet, not {path.name!r}")
    return path


def write_regions(atlas: AtlasLike, label_key: str, path: str | Path) -> Path:
    """Write the label of every spot: columns ``table``, ``spot``, ``region``.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    label_key
        obs column of domains or regions; spots without one are left out.
    path
        A ``.csv``, ``.tsv`` or ``.parquet`` file.

    Raises
    ------
    BadInput
        There is no such column, or the file's folder is missing.
    BadOption
        The ending says none of these.

    Examples
    --------
    >>> import atlasnmf as an
    >>> an.tl.write_regions("embryo.zarr", "domains", "domains.csv")
    PosixPath('domains.csv')
    """
    import pandas as pd

    path = new_file(path)
    found = opened(atlas)
    labels = stored_labels(found, label_key)
    known = labels.codes >= 0
    tables = np.repeat([table.name for table in found.tables], [table.n_spots for table in found.tables])
    spots = np.concatenate([table.obs_names() for table in found.tables])
    names = np.array(labels.names, object)[labels.codes[known]]
    frame = pd.DataFrame({"table": tables[known], "spot": spots[known].astype(str), "region": names})
    return write_frame(frame, path)


def read_regions(
    atlas: AtlasLike, path: str | Path, *, key_added: str = "region", overwrite: bool = False
) -> dict[str, pd.Categorical]:
    """Read the label of spots from a table and write them to ``obs[key_added]``.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    path
        A ``.csv``, ``.tsv`` or ``.parquet`` file with columns ``spot`` and ``region``, and ``table`` where
        several tables have a spot of the same name.
    key_added
        obs column to write; spots the file does not name, or leaves blank, have none.
    overwrite
        Replace an older one.

    Returns
    -------
    dict
        The column of each table, by name.

    Raises
    ------
    BadInput
        The file is missing, lacks a column, or names spots the atlas does not have.

    Examples
    --------
    >>> import atlasnmf as an
    >>> _ = an.tl.write_regions("embryo.zarr", "domains", "domains.csv")
    >>> found = an.tl.read_regions("embryo.zarr", "domains.csv", key_added="again")
    >>> sorted(found)
    ['slice_1', 'slice_2']
    """
    import pandas as pd

    found = opened(atlas)
    refuse_existing(found, obs=[key_added], overwrite=overwrite)
    frame = _frame(Path(path))
    names = [name for name in dict.fromkeys(frame["region"]) if name]
    codes, used = {}, np.zeros(len(frame), bool)
    for table in found.tables:
        own = np.arange(len(frame))
        if "table" in frame:
            own = np.flatnonzero(frame["table"].to_numpy() == table.name)
        place = pd.Index(table.obs_names().astype(str)).get_indexer(frame["spot"].to_numpy()[own])
        here = place >= 0
        used[own[here]] = True
        column = np.full(table.n_spots, -1, np.int64)
        column[place[here]] = pd.Index(names).get_indexer(frame["region"].to_numpy()[own[here]])
        codes[table.name] = column
    if not used.all():
        first = frame["spot"].iloc[int(np.flatnonzero(~used)[0])]
        raise BadInput(
            f"{path} names {int((~used).sum())} spots that {found.name} does not have, the first {first!r}; "
            "check the names of spots and tables"
        )
    columns = {name: pd.Categorical.from_codes(own, categories=names) for name, own in codes.items()}
    with ResultWriter(found, overwrite=overwrite) as writer:
        writer.obs(key_added, columns)
    return columns


def _frame(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise BadInput(f"there is no file {path} with regions; check the path")
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        frame = frame.astype(str).where(frame.notna(), "")
    elif path.suffix in (".csv", ".tsv"):
        # NA may be a region: the nucleus accumbens is
        sep = "\t" if path.suffix == ".tsv" else ","
        frame = pd.read_csv(path, sep=sep, dtype=str, keep_default_na=False)
    else:
        raise BadOption(f"{path} is no file of regions; give .csv, .tsv or .parquet")
    for column in ("spot", "region"):
        if column not in frame:
            has = ", ".join(map(str, frame.columns))
            raise BadInput(f"{path} needs the columns spot and region, one row per spot; it has {has}")
    return frame


def write_tables(atlas: AtlasLike, folder: str | Path, *, ending: str = "csv") -> list[Path]:
    """Write every result in ``uns`` that is a table to a file of its own.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    folder
        Made when missing.
    ending
        ``csv``, ``tsv`` or ``parquet``.

    Returns
    -------
    list of pathlib.Path
        ``<key>.<ending>`` for columns of one length, and ``<key>.<name>.<ending>`` for those inside an entry
        and for what a fit says of its slices, ranks or genes. Older files of these names are replaced.

    Raises
    ------
    BadInput
        There is no such result, or ``folder`` is a file.
    BadOption
        The ending is none of these.

    Examples
    --------
    >>> import atlasnmf as an
    >>> _ = an.tl.factor_genes("embryo.zarr", "inspire")
    >>> "inspire_genes.csv" in [file.name for file in an.tl.write_tables("embryo.zarr", "tables")]
    True
    """
    if ending not in ("csv", "tsv", "parquet"):
        raise BadOption(f"tables are written as csv, tsv or parquet, not {ending!r}")
    found = opened(atlas)
    tables: dict[str, pd.DataFrame] = {}
    for table in found.tables:
        for key in table.keys("uns"):
            if key not in tables:
                tables |= _tables_of(key, table.uns(key))
    if not tables:
        raise BadInput(f"no result of {found.name} is a table; run atlasnmf.tl.factor_genes or another first")
    folder = new_folder(folder)
    return [write_frame(frame, folder / f"{name}.{ending}") for name, frame in tables.items()]


def _tables_of(name: str, entry: Any) -> dict[str, pd.DataFrame]:
    if hasattr(entry, "columns"):
        return {name: entry}
    if not isinstance(entry, Mapping):
        return {}
    found: dict[str, pd.DataFrame] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping) and key not in ("params", "written"):
            found |= _tables_of(f"{name}.{key}", value)
    columns = {k: np.asarray(v) for k, v in entry.items() if len(np.shape(v)) == 1}
    if {"slices", "n_spots"} <= columns.keys():  # the record of a fit
        return found | _by_axis(name, columns)
    lengths = [len(v) for v in columns.values()]
    if lengths:
        # the columns of a table are those of the commonest length
        common = max(set(lengths), key=lengths.count)
        chosen = {k: v for k, v in columns.items() if len(v) == common}
        if common and len(chosen) > 1:
            found[name] = _framed(chosen)
    return found


def _by_axis(name: str, columns: Mapping[str, np.ndarray]) -> dict[str, pd.DataFrame]:
    """Take what a fit noted apart by what it speaks of: as many slices as ranks make no common rows."""
    found = {}
    for axis, starts in _AXES.items():
        own = {k: v for k, v in columns.items() if axis in columns and k.startswith(starts)}
        own = {k: v for k, v in own.items() if len(v) == len(columns[axis])}
        if own and len(columns[axis]):
            found[f"{name}.{axis}"] = _framed({axis: columns[axis], **own})
    return found


def _framed(columns: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Put what names the rows first: zarr returns columns in the order of the folder."""
    import pandas as pd

    named = [column for column in _NAMING if column in columns]
    return pd.DataFrame({k: columns[k] for k in [*named, *sorted(set(columns) - set(named))]})
