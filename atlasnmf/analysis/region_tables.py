"""Regions of spots, and whatever results are tables, as CSV or Parquet, in and out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.spots import stored_labels
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.atlas import opened
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd

    from atlasnmf.store.atlas import AtlasLike

__all__ = ["read_regions", "write_regions", "write_tables"]

_COLUMNS = ("table", "spot", "region")


def _written(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix in (".csv", ".tsv"):
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    else:
        raise BadOption(f"tables are written as .csv, .tsv or .parquet, not {path.name!r}")
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
        There is no such column.
    BadOption
        The ending says none of these.

    Examples
    --------
    >>> import atlasnmf as an
    >>> an.tl.write_regions("embryo.zarr", "domains", "domains.csv")
    PosixPath('domains.csv')
    """
    import pandas as pd

    found = opened(atlas)
    labels = stored_labels(found, label_key)
    known = labels.codes >= 0
    tables = np.repeat([table.name for table in found.tables], [table.n_spots for table in found.tables])
    spots = np.concatenate([table.obs_names() for table in found.tables])
    names = np.array(labels.names, object)[labels.codes[known]]
    frame = pd.DataFrame({"table": tables[known], "spot": spots[known].astype(str), "region": names})
    return _written(frame, Path(path))


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
        obs column to write; spots the file does not name have none.
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
    names = list(dict.fromkeys(frame["region"]))
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
        frame = pd.read_parquet(path).astype(str)
    elif path.suffix in (".csv", ".tsv"):
        frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str)
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
        ``<key>.<ending>`` for columns of one length, and ``<key>.<name>.<ending>`` for those inside an entry.

    Raises
    ------
    BadInput
        There is no such result.
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
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [_written(frame, folder / f"{name}.{ending}") for name, frame in tables.items()]


def _tables_of(name: str, entry: Any) -> dict[str, pd.DataFrame]:
    import pandas as pd

    if hasattr(entry, "columns"):
        return {name: entry}
    if not isinstance(entry, Mapping):
        return {}
    found: dict[str, pd.DataFrame] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping) and key not in ("params", "written"):
            found |= _tables_of(f"{name}.{key}", value)
    columns = {k: np.asarray(v) for k, v in entry.items() if np.ndim(v) == 1 and len(np.shape(v)) == 1}
    lengths = [len(v) for v in columns.values()]
    if lengths:
        # the columns of a table are those of the commonest length
        common = max(set(lengths), key=lengths.count)
        chosen = {k: v for k, v in columns.items() if len(v) == common}
        if common and len(chosen) > 1:
            found[name] = pd.DataFrame(chosen)
    return found
