"""Voxel volumes to a store: mask, regions, and missing values filled gene by gene, with a score."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atlasnmf.budget import format_bytes
from atlasnmf.errors import BadInput, BadOption
from atlasnmf.events import SILENT, Events
from atlasnmf.features.fill import FillScore
from atlasnmf.options import taking
from atlasnmf.pipeline.volume_filling import Filled, GeneFile, VolumeOptions, fill_genes, gather_genes
from atlasnmf.simulate.volume import VolumeParams, annotated_grid, made_grid, plan_volume
from atlasnmf.store.names import safe_name
from atlasnmf.store.ontology import Ontology, read_ontology
from atlasnmf.store.volumes import GeneVolumes, open_volumes, read_annotation, read_gene_names, read_mask
from atlasnmf.store.writer import StoreWriter, create_store

__all__ = ["VolumeOptions", "VolumeOutcome", "ingest_volumes", "simulate_volume", "write_volumes"]

_BLOCK_BYTES = 32 * 10**6


@dataclass(frozen=True)
class VolumeOutcome:
    """What became of the volumes."""

    store: str
    n_voxels: int
    n_dropped: int
    n_genes: int
    genes_left_out: tuple[str, ...]
    missing_share: float
    score: FillScore = field(repr=False)

    def record(self) -> dict[str, Any]:
        """Return the outcome for scripts."""
        return {
            "store": self.store,
            "n_voxels": self.n_voxels,
            "n_dropped": self.n_dropped,
            "n_genes": self.n_genes,
            "genes_left_out": list(self.genes_left_out),
            "missing_share": round(self.missing_share, 6),
            "quality": holdout_record(self.score),
        }

    def lines(self) -> list[str]:
        """Return the outcome for people."""
        lines = [f"{self.store}: {self.n_voxels:,} voxels of {self.n_genes:,} genes"]
        if self.n_dropped:
            lines.append(f"{self.n_dropped:,} voxels left out: missing in nearly every gene")
        lines.append(f"{self.missing_share:.2%} of the values were missing and are filled")
        if self.score.n:
            lines.append(
                f"filling, on {self.score.n:,} hidden values: R2 {self.score.r2:.3f}, "
                f"Pearson {self.score.correlation:.3f}"
            )
        return lines


def holdout_record(score: FillScore) -> dict[str, float | int]:
    """Return a score of the filling as plain figures."""
    if not score.n:
        return {}
    return {
        "r2": score.r2,
        "pearson": score.correlation,
        "mean_absolute_error": score.mean_error,
        "n_hidden": score.n,
    }


def ingest_volumes(
    files: Sequence[Path | str],
    out: Path | str,
    *,
    mask: Path | str | None = None,
    annotation: Path | str | None = None,
    ontology: Path | str | None = None,
    gene_names: Path | str | Sequence[str] | None = None,
    spacing: tuple[float, ...] | None = None,
    unit: str | None = None,
    table: str = "volume",
    options: VolumeOptions | None = None,
    overwrite: bool = False,
    events: Events = SILENT,
) -> VolumeOutcome:
    """Write gene images as a SpatialData store with one table, a row per voxel inside the mask.

    Parameters
    ----------
    files
        NIfTI, NRRD or zarr images: one a gene, named after the gene, or one with a fourth axis of genes.
    out
        The store to make; it appears when everything has been written.
    mask
        Image on the same grid, above zero inside. Without it, voxels that have a region are inside.
    annotation
        Image on the same grid with the number of each voxel's region, 0 for none.
    ontology
        Table of regions (see :func:`atlasnmf.store.ontology.read_ontology`).
    gene_names
        File with one name per line, or the names; needed where a file with four axes names no images.
    spacing, unit
        Distance of voxels (one, or one an axis) and its unit, in place of what the files say.
    table
        Name of the table.
    options
        How missing values are treated.
    overwrite
        Replace ``out`` when it exists.
    events
        Told of every gene.

    Returns
    -------
    VolumeOutcome
        Sizes and the score of the filling.

    Raises
    ------
    BadInput
        A file cannot be used, grids differ, or there is neither mask nor annotation.
    BadOption
        ``out`` exists, or an option is out of range.

    Notes
    -----
    Inside the mask, NaN and -1 are missing and filled; other negative values become 0, as published. What
    lies outside is never looked at. Rows are in C order of (i, j, k): the last axis runs fastest. Each
    file is read once; 4 bytes a value pass through a scratch file in the folder of the store.

    Examples
    --------
    >>> import numpy as np
    >>> import zarr
    >>> import atlasnmf as an
    >>> rng = np.random.default_rng(0)
    >>> for gene in ("Sox2", "Pax6"):
    ...     _ = zarr.save_array(f"{gene}.zarr", rng.random((4, 4, 4)))
    >>> _ = zarr.save_array("mask.zarr", np.ones((4, 4, 4)))
    >>> made = an.ingest_volumes(["Sox2.zarr", "Pax6.zarr"], "volume.zarr", mask="mask.zarr")
    >>> an.open_atlas("volume.zarr")
    Atlas(volume.zarr: 64 spots, 1 slice: volume (64))
    """
    names = read_gene_names(gene_names) if isinstance(gene_names, str | Path) else gene_names
    volumes = open_volumes(files, names, spacing=spacing, unit=unit)
    regions = None if annotation is None else read_annotation(annotation, volumes)
    if mask is not None:
        inside = read_mask(mask, volumes)
    elif regions is not None:
        inside = regions > 0
    else:
        raise BadInput(
            "volumes need to say which voxels are tissue; "
            "give --mask FILE (above zero inside) or --annotation FILE"
        )
    tree = None if ontology is None else read_ontology(ontology)
    if tree is not None and regions is None:
        raise BadOption("an ontology names the regions of an annotation; give --annotation FILE too")
    return write_volumes(
        volumes,
        inside,
        out,
        regions=regions,
        ontology=tree,
        table=table,
        options=options,
        overwrite=overwrite,
        events=events,
    )


def write_volumes(
    volumes: GeneVolumes,
    inside: np.ndarray,
    out: Path | str,
    *,
    regions: np.ndarray | None = None,
    ontology: Ontology | None = None,
    table: str = "volume",
    options: VolumeOptions | None = None,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    events: Events = SILENT,
) -> VolumeOutcome:
    """Write gene images that are already open (see :func:`ingest_volumes`).

    Parameters
    ----------
    volumes
        The images.
    inside
        Which voxels are tissue, bool, shape ``volumes.grid.shape``.
    regions
        Region of each voxel, 0 for none, int64, of the same shape.
    ontology
        Names and parents of the regions.
    extra
        More for the table: ``obs`` and ``obsm`` with a row per voxel inside, in order, ``varm`` with a row
        per gene, ``uns``.
    out, table, options, overwrite, events
        As in :func:`ingest_volumes`.
    """
    options = options or VolumeOptions()
    out = Path(out)
    voxels = np.argwhere(inside)
    _require_disk(out, len(voxels) * len(volumes.genes))
    with (
        create_store(out, overwrite=overwrite) as store,
        tempfile.TemporaryDirectory(dir=store.path, prefix=".fill-") as folder,
        closing(GeneFile(Path(folder) / "values", len(voxels))) as values,
    ):
        missing_in = gather_genes(volumes, inside, values, events)
        kept = missing_in < options.drop_share * len(volumes.genes)
        if not kept.any():
            raise BadInput("every voxel is missing in nearly every gene; check the mask and the images")
        voxels = voxels[kept]
        filled = fill_genes(values, kept, volumes.grid.lattice(voxels), options, volumes.genes, events)
        parts = _parts(extra, kept, filled.usable)
        parts["obs"] |= {"missing": (missing_in[kept] / len(volumes.genes)).astype(np.float32)}
        if regions is not None:
            numbers = regions[inside][kept]
            parts["obs"] |= _region_columns(numbers, ontology, events)
            if ontology is not None:
                parts["uns"]["ontology"] = ontology.record()
        _write_table(store, safe_name(table), volumes, voxels, values, filled, parts, options)
        n_genes = int(filled.usable.sum())
        left_out = tuple(np.array(volumes.genes, dtype=object)[~filled.usable])
        n_kept_missing = float(filled.missing[filled.usable].mean()) if n_genes else 0.0
    return VolumeOutcome(
        str(out), len(voxels), int((~kept).sum()), n_genes, left_out, n_kept_missing, filled.score
    )


def _require_disk(out: Path, n_values: int) -> None:
    folder = out.absolute().parent
    free = shutil.disk_usage(folder).free if folder.is_dir() else 8 * n_values
    if 8 * n_values > free:
        raise BadOption(
            f"{out} needs about {format_bytes(8 * n_values)} of disk but {format_bytes(free)} are free; "
            "free some"
        )


def _parts(
    extra: Mapping[str, Mapping[str, Any]] | None, kept: np.ndarray, usable: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Return what else goes into the table, for the voxels and genes that stay."""
    given = {group: dict((extra or {}).get(group, {})) for group in ("obs", "obsm", "varm", "uns")}
    for group, rows in (("obs", kept), ("obsm", kept), ("varm", usable)):
        given[group] = {key: value[rows] for key, value in given[group].items()}
    return given


def _region_columns(numbers: np.ndarray, ontology: Ontology | None, events: Events) -> dict[str, Any]:
    import pandas as pd

    found, codes = np.unique(numbers, return_inverse=True)
    names = [str(number) if ontology is None else ontology.acronym(number) for number in found]
    if ontology is not None:
        strange = [str(number) for number in found if number and number not in ontology]
        if strange:
            more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
            events.warn(
                f"regions {', '.join(strange[:5])}{more} are not in the ontology "
                "and keep their numbers as names"
            )
    if found[0] == 0:  # no region
        names, codes = names[1:], codes - 1
    return {"region": pd.Categorical.from_codes(codes, names), "region_id": numbers}


def _write_table(
    store: StoreWriter,
    name: str,
    volumes: GeneVolumes,
    voxels: np.ndarray,
    values: GeneFile,
    filled: Filled,
    parts: dict[str, dict[str, Any]],
    options: VolumeOptions,
) -> None:
    import pandas as pd

    grid = volumes.grid
    usable = np.flatnonzero(filled.usable)
    writer = store.table(name, n_genes=len(usable), dtype=np.float32, dense=True)
    step = max(_BLOCK_BYTES // (4 * len(usable)), 1)
    for start in range(0, len(voxels), step):
        stop = min(start + step, len(voxels))
        block = np.empty((stop - start, len(usable)), np.float32)
        for column, gene in enumerate(usable.tolist()):
            block[:, column] = values.read(gene, start, stop)
        writer.append(
            block,
            obsm={
                "spatial": grid.positions(voxels[start:stop]),
                "voxel": voxels[start:stop].astype(np.int32),
                **{key: value[start:stop] for key, value in parts["obsm"].items()},
            },
        )
    names = [f"v{i}_{j}_{k}" for i, j, k in voxels.tolist()]
    frame = {"missing": filled.missing[usable].astype(np.float32)}
    if filled.score.n:
        frame["fill_r2"] = filled.r2[usable].astype(np.float32)
    described = {
        "shape": np.array(grid.shape, np.int64),
        "affine": grid.affine,
        "unit": grid.unit,
        "order": "C order of (i, j, k): the last axis runs fastest",
        "fill": {
            "method": "nearest measured voxels weighted by one over their distance",
            "n_neighbors": options.n_neighbors,
            "drop_share": options.drop_share,
            "n_dropped": values.n_voxels - len(voxels),
            "holdout": options.holdout,
            "seed": options.seed,
            "missing_share": float(filled.missing[usable].mean()),
            **holdout_record(filled.score),
        },
    }
    genes = np.array(volumes.genes, dtype=object)[usable]
    writer.close(
        obs=pd.DataFrame(parts["obs"], index=names),
        var=pd.DataFrame(frame, index=genes),
        varm=parts["varm"],
        uns={"volume": described, **parts["uns"]},
    )


@taking(VolumeParams)
def simulate_volume(
    out: Path | str, params: VolumeParams, *, overwrite: bool = False, events: Events = SILENT
) -> VolumeOutcome:
    """Write a store of a made voxel volume whose patterns, coefficients and regions are known.

    Parameters
    ----------
    out
        The store; it appears when it is whole.
    {options}
    overwrite, events
        As in :func:`ingest_volumes`.

    Returns
    -------
    VolumeOutcome
        The store has what an ingested volume has, and ``obsm["true_patterns"]`` (n, K),
        ``varm["true_coefficients"]`` (G, K) and ``uns["truth"]`` with the regions of each pattern.

    Raises
    ------
    BadOption
        The sizes do not go together, or the store exists.

    Examples
    --------
    >>> import atlasnmf as an
    >>> made = an.simulate_volume("made.zarr", shape=(12, 10, 12), n_regions=10, n_genes=9, n_patterns=3)
    >>> an.open_atlas("made.zarr").tables[0].obsm("true_patterns").shape[1]
    3
    """
    annotated, seed = params.annotated, params.seed
    painted = (
        made_grid(params.shape, params.n_regions, seed=seed)
        if annotated is None
        else annotated_grid(annotated)
    )
    volume = plan_volume(
        painted, n_genes=params.n_genes, n_patterns=params.n_patterns, missing=params.missing, seed=seed
    )
    truth = {
        "simulator": "volume",
        "seed": seed,
        "rank": params.n_patterns,
        "pattern_regions": np.array(["+".join(union) for union in volume.pattern_regions], dtype=object),
        "missing": params.missing,
        "regions": painted.source,
        "note": "values are made" if annotated is None else "geometry and regions are real, values are made",
    }
    return write_volumes(
        volume,
        volume.inside,
        out,
        regions=painted.regions,
        ontology=painted.ontology,
        extra={
            "obsm": {"true_patterns": volume.patterns},
            "varm": {"true_coefficients": volume.coefficients},
            "uns": {"truth": truth},
        },
        options=VolumeOptions(seed=seed),
        overwrite=overwrite,
        events=events,
    )
