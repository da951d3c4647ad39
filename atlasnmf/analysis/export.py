"""Parts of an atlas for other tools: an AnnData, a file for cell-cell communication, a table of usages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.analysis.spots import slice_numbers, stored_labels
from atlasnmf.analysis.stored_patterns import stored_patterns
from atlasnmf.analysis.values import TARGET_SUM, GeneValues, gene_values, layer_of, picked
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.schema import Csr
from atlasnmf.store.atlas import opened
from atlasnmf.store.names import no_such
from atlasnmf.store.paths import new_file
from atlasnmf.store.results import ResultWriter, refuse_existing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from atlasnmf.store.atlas import Atlas, AtlasLike
    from atlasnmf.store.tables import TableHandle

__all__ = ["export_communication", "to_anndata", "usages_table"]

_RUN_ROWS = 16_384


def to_anndata(
    atlas: AtlasLike,
    *,
    slices: str | Sequence[str] | None = None,
    spots: np.ndarray | Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    layers: bool = False,
) -> AnnData:
    """Read a part of an atlas, with its results, as one AnnData in memory.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    slices
        Names of slices; all when not given.
    spots
        Spots within them: a mask of the atlas's spots, their numbers, or their names.
    genes
        Names of genes, in the order wanted; all when not given.
    layers
        Read layers too.

    Returns
    -------
    anndata.AnnData
        Counts as CSR (zero where a table lacks a gene), obs with ``table`` and ``slice`` beside the columns
        of the tables, all of obsm that has the same columns everywhere (NaN where a table lacks it) with
        positions under ``spatial``, varm and uns of the first table that has each. Spots are in the atlas's
        order; names that occur in several tables get ``-<table>``.

    Raises
    ------
    BadInput
        Nothing is chosen.
    BadOption
        There is no such slice, gene or spot; names the nearest.

    Notes
    -----
    Counts are read in runs of 16,384 spots, of which the chosen are kept: memory is that of the result.

    Examples
    --------
    >>> import anndata, pandas as pd
    >>> names = [f"spot{i}" for i in range(4)]
    >>> adata = anndata.AnnData(np.eye(4, 3), obs=pd.DataFrame(index=names), obsm={"spatial": np.eye(4, 2)})
    >>> to_anndata(adata, spots=["spot2", "spot0"], genes=["2", "0"]).X.toarray().tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    import anndata
    import pandas as pd
    import scipy.sparse

    found = opened(atlas)
    wanted = _spots(found, slices, spots)
    values = gene_values(found, genes)
    numbers = [info.name for info in found.slices]
    parts: list[tuple[TableHandle, np.ndarray]] = []
    for table, own_spots in found.table_spots():
        own = wanted[(wanted >= own_spots.start) & (wanted < own_spots.stop)] - own_spots.start
        if len(own):
            parts.append((table, own))
    obs = _joined([_obs(table, own) for table, own in parts])
    obs.insert(0, "slice", pd.Categorical(np.array(numbers, object)[found.slice_codes()[wanted]]))
    obs.insert(0, "table", pd.Categorical(np.repeat([t.name for t, _ in parts], [len(o) for _, o in parts])))
    if not obs.index.is_unique:
        obs.index = pd.Index([f"{name}-{table}" for name, table in zip(obs.index, obs["table"], strict=True)])
    out = anndata.AnnData(
        scipy.sparse.vstack([_counts(values, table, own) for table, own in parts]).tocsr(),
        obs=obs,
        var=pd.DataFrame(index=list(values.genes)),
    )
    for key in _shared(parts, "obsm"):
        out.obsm[key] = _obsm(parts, key)
    if "spatial" not in out.obsm:
        out.obsm["spatial"] = np.concatenate([found.coordinates_of(table)[own] for table, own in parts])
    for key in dict.fromkeys(key for table, _ in parts for key in table.keys("varm")):
        out.varm[key] = _varm(parts, key, values.genes)
    for key in dict.fromkeys(key for table, _ in parts for key in table.keys("uns")):
        if key != "spatialdata_attrs":
            out.uns[key] = next(table.uns(key) for table, _ in parts if key in table.keys("uns"))
    if layers:
        for key in [
            key for key in parts[0][0].keys("layers") if all(key in t.keys("layers") for t, _ in parts)
        ]:
            some = GeneValues(found, values.tables, values.genes, key)
            out.layers[key] = scipy.sparse.vstack([_counts(some, table, own) for table, own in parts]).tocsr()
    return out


def _spots(atlas: Atlas, slices: Any, spots: Any) -> np.ndarray:
    inside = np.isin(atlas.slice_codes(), slice_numbers(atlas, slices))
    if spots is not None:
        inside &= _named(atlas, spots)
    if not inside.any():
        raise BadInput(f"no spot of {atlas.name} is chosen; name slices and spots that it has")
    return np.flatnonzero(inside)


def _named(atlas: Atlas, spots: Any) -> np.ndarray:
    chosen = np.asarray(spots)
    mask = np.zeros(atlas.n_spots, bool)
    if chosen.dtype == bool:
        if len(chosen) != atlas.n_spots:
            raise BadOption(f"a mask of {len(chosen)} spots for {atlas.n_spots}; give one value per spot")
        return chosen
    if chosen.dtype.kind in "iu":
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < atlas.n_spots):
            raise BadOption(f"numbers of spots go from 0 to {atlas.n_spots - 1}")
        mask[chosen] = True
        return mask
    wanted, seen = set(chosen.astype(str).tolist()), set()
    for table, own in atlas.table_spots():
        at = own.start
        for block in table.iter_obs_names():
            for number, name in enumerate(block):
                if str(name) in wanted:
                    mask[at + number] = True
                    seen.add(str(name))
            at += len(block)
    missing = sorted(wanted - seen)
    if missing:
        known = [str(name) for name in atlas.tables[0].obs_names()[:10_000]]
        raise BadOption(no_such("spot", missing[0], known, atlas.name))
    return mask


def _obs(table: TableHandle, own: np.ndarray) -> pd.DataFrame:
    import pandas as pd

    names = [name for name in table.obs_columns() if name not in ("table", "slice")]
    columns = {name: pd.Series(table.obs_column(name)).iloc[own].array for name in names}
    return pd.DataFrame(columns, index=pd.Index(table.obs_names()[own].astype(str)))


def _joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put the rows of tables below each other; what is categorical in all stays so."""
    import pandas as pd

    obs = pd.concat(parts)
    for name in obs:
        own = [part[name] for part in parts if name in part]
        if all(isinstance(column.dtype, pd.CategoricalDtype) for column in own):
            levels = dict.fromkeys(level for column in own for level in column.cat.categories)
            obs[name] = pd.Categorical(obs[name], categories=list(levels)).remove_unused_categories()
    return obs


def _runs_with(own: np.ndarray, n_spots: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield runs that hold chosen rows, and the chosen within each."""
    for start in range(0, n_spots, _RUN_ROWS):
        stop = min(start + _RUN_ROWS, n_spots)
        low, high = np.searchsorted(own, (start, stop))
        if low < high:
            yield start, stop, own[low:high] - start


def _counts(values: GeneValues, table: TableHandle, own: np.ndarray) -> Any:
    import scipy.sparse

    columns = values.columns[[other.name for other in values.tables].index(table.name)]
    counts = table.counts if values.source is None else layer_of(table, values.source).counts
    parts = []
    for start, stop, inside in _runs_with(own, table.n_spots):
        rows = counts.read(start, stop)
        some = Csr.from_scipy(rows.to_scipy()[inside])
        parts.append(picked(some, columns))
    return scipy.sparse.vstack(parts)


def _shared(parts: Sequence[tuple[TableHandle, np.ndarray]], group: str) -> list[str]:
    """Return the keys whose arrays have as many columns in all tables that have them."""
    keys = dict.fromkeys(key for table, _ in parts for key in table.keys(group))
    widths = {
        key: {t.obsm_rows(key, 0, 1).shape[1:] for t, _ in parts if key in t.keys(group)} for key in keys
    }
    return [key for key, found in widths.items() if len(found) == 1]


def _obsm(parts: Sequence[tuple[TableHandle, np.ndarray]], key: str) -> np.ndarray:
    first = next(table for table, _ in parts if key in table.keys("obsm")).obsm_rows(key, 0, 1)
    whole = all(key in table.keys("obsm") for table, _ in parts)
    kind = first.dtype if whole or first.dtype.kind == "f" else np.dtype(np.float64)
    out = np.full(
        (sum(len(own) for _, own in parts), *first.shape[1:]), np.nan if kind.kind == "f" else 0, kind
    )
    at = 0
    for table, own in parts:
        for start, stop, inside in _runs_with(own, table.n_spots):
            if key in table.keys("obsm"):
                out[at : at + len(inside)] = table.obsm_rows(key, start, stop)[inside]
            at += len(inside)
    return out


def _varm(parts: Sequence[tuple[TableHandle, np.ndarray]], key: str, genes: Sequence[str]) -> np.ndarray:
    table = next(table for table, _ in parts if key in table.keys("varm"))
    values = np.asarray(table.varm(key))
    place = {str(gene): at for at, gene in enumerate(table.var_names())}
    out = np.full((len(genes), *values.shape[1:]), np.nan)
    for at, gene in enumerate(genes):
        if gene in place:
            out[at] = values[place[gene]]
    return out


def export_communication(
    atlas: AtlasLike,
    path: str | Path,
    *,
    label_key: str = "domains",
    slices: str | Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
) -> Path:
    """Write what tools of cell-cell communication (COMMOT, LIANA, CellPhoneDB, stLearn) start from.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory.
    path
        The ``.h5ad`` file to write: X log-normalised counts (per 10^4), ``layers["counts"]``,
        ``obsm["spatial"]``, ``obs`` with ``label``, ``slice`` and ``table``. Spots without a label are left
        out.
    label_key
        obs column of domains or cell types.
    slices
        Slices; all when not given. These tools take one tissue section at a time: write a file per slice, or
        split by ``obs["slice"]``.
    genes
        Genes, such as ligands and receptors; all when not given. Totals are over all genes whichever are
        kept.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    BadInput
        There is no such column, no chosen spot has a label, or the file's folder is missing.
    BadOption
        The file exists, or its name does not end in ``.h5ad``.

    Notes
    -----
    The chosen part is held in memory. Nothing is computed: run the tool on the file.

    Examples
    --------
    >>> import atlasnmf as an
    >>> an.tl.export_communication("embryo.zarr", "slice_1.h5ad", label_key="domains", slices="slice_1")
    PosixPath('slice_1.h5ad')
    """
    import pandas as pd

    path = new_file(path)
    if path.suffix != ".h5ad":
        raise BadOption(f"{path.name} must end in .h5ad")
    if path.exists():
        raise BadOption(f"{path} exists; give another name")
    found = opened(atlas)
    labels = stored_labels(found, label_key)
    chosen = labels.codes >= 0
    if not (chosen & np.isin(found.slice_codes(), slice_numbers(found, slices))).any():
        raise BadInput(
            f"no chosen spot has a value in obs[{label_key!r}]; choose other slices or another column"
        )
    out = to_anndata(found, slices=slices, spots=chosen, genes=genes)
    spots = _spots(found, slices, chosen)
    out.layers["counts"] = out.X.copy()
    out.X = GeneValues(found, found.tables, tuple(out.var_names)).take(spots)
    named = pd.Categorical.from_codes(labels.codes[spots], categories=list(labels.names))
    out.obs = pd.DataFrame(
        {"label": named.remove_unused_categories(), "slice": out.obs["slice"], "table": out.obs["table"]}
    )
    out.obsm = {"spatial": out.obsm["spatial"]}
    out.varm, out.uns = {}, {"label_key": label_key, "target_sum": TARGET_SUM}
    partial = path.with_name(f".{path.name}.partial")
    out.write_h5ad(partial)
    partial.rename(path)
    return path


def usages_table(
    atlas: AtlasLike,
    key: str = "inspire",
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> str:
    """Write the factor usages of all spots as a table of its own, factors in place of genes.

    Parameters
    ----------
    atlas
        An open atlas, the path of a store, or data in memory (which is changed).
    key
        Name of the result.
    name
        Name of the table, ``<key>_usages`` by default. obs has ``table``, ``slice`` and ``spot``; where the
        tables annotate shapes, points or labels, so does this one.
    overwrite
        Replace an older one.

    Returns
    -------
    str
        Name of the table.

    Raises
    ------
    BadInput
        There is no such result.
    BadOption
        There is such a table.

    Examples
    --------
    >>> import anndata
    >>> adata = anndata.AnnData(np.ones((2, 1)), obsm={"inspire_factors": np.array([[0.9, 0.1], [0.2, 0.8]])})
    >>> adata.uns[usages_table(adata)].columns.tolist()
    ['factor_0', 'factor_1']
    """
    import pandas as pd

    found = opened(atlas)
    named = name or f"{key}_usages"
    read = stored_patterns(found, key)
    refuse_existing(found, tables=[named], overwrite=overwrite)
    slices = np.array([info.name for info in found.slices], object)[found.slice_codes()[read.spots]]
    spots = np.concatenate([table.obs_names() for table in read.tables]).astype(str)
    tables = np.repeat(read.names, [table.n_spots for table in read.tables])
    obs = pd.DataFrame({"table": pd.Categorical(tables), "slice": pd.Categorical(slices), "spot": spots})
    obs.index = pd.Index(
        spots if len(set(spots)) == len(spots) else [f"{t}_{s}" for t, s in zip(tables, spots, strict=True)]
    )
    annotated = _annotation(read.tables, obs)
    columns = [f"factor_{k}" for k in range(read.n_patterns)]
    blocks = (read.patterns[at : at + _RUN_ROWS] for at in range(0, len(read.patterns), _RUN_ROWS))
    with ResultWriter(found, overwrite=overwrite) as writer:
        writer.table(named, obs, {**annotated, "source": {"key": key}}, columns=columns, values=blocks)
    return named


def _annotation(tables: Sequence[TableHandle], obs: pd.DataFrame) -> Mapping[str, Any]:
    """Take over which elements the tables annotate, where all of them do; adds two columns to ``obs``."""
    import pandas as pd

    notes = [table.annotation() for table in tables]
    if any(note is None for note in notes):
        return {}
    regions, ids = [], []
    for table, note in zip(tables, notes, strict=True):
        assert note is not None
        regions.append(np.asarray(table.obs_column(note.region_key)).astype(str))
        ids.append(np.asarray(table.obs_column(note.instance_key)))
    if len({part.dtype.kind for part in ids}) > 1:
        return {}
    obs["region"], obs["instance_id"] = pd.Categorical(np.concatenate(regions)), np.concatenate(ids)
    attrs = {
        "region": list(obs["region"].cat.categories),
        "region_key": "region",
        "instance_key": "instance_id",
    }
    return {"spatialdata_attrs": attrs}
