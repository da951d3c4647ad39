"""What an input looks like in a few bytes: cheap, of the inputs only, the same after a copy or a move."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from atlasnmf.schema import Csr
from atlasnmf.store.tables import Annotation, StoredTable, TableHandle

__all__ = ["digest_array", "digest_files", "digest_rows", "memory_hashes", "stored_hashes"]

#: Files whose contents are sampled, beside the sizes of all files.
_SAMPLED_FILES = 64
#: Bytes read at the head and the tail of a sampled file.
_SAMPLED_BYTES = 4096
#: Rows hashed at a few places of a matrix in memory.
_SAMPLED_ROWS = 256


def digest_files(paths: Iterable[Path], *, whole: bool = False) -> str:
    """Hash what lies under some paths: names and sizes of all files, and the contents of some.

    Times are left out, so a copied or moved store keeps its fingerprint. A change of values that keeps the
    compressed size of every chunk and lies outside the sampled bytes goes unseen.

    Parameters
    ----------
    paths
        Files or directories; a missing one counts as missing.
    whole
        Hash whole contents instead of samples.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        files = sorted(_files(path))
        digest.update(f"{path.name}\0{len(files)}\0".encode())
        for name, size in files:
            digest.update(f"{name}\0{size}\0".encode())
        step = 1 if whole else max(len(files) // _SAMPLED_FILES, 1)
        for name, size in files[::step]:
            _update_from(digest, path / name if name else path, size, whole)
    return digest.hexdigest()


def _files(path: Path) -> list[tuple[str, int]]:
    if path.is_file():
        return [("", path.stat().st_size)]
    found: list[tuple[str, int]] = []
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            found.append((os.path.relpath(file, path), os.stat(file).st_size))
    return found


def _update_from(digest: Any, path: Path, size: int, whole: bool) -> None:
    with open(path, "rb") as file:
        if whole:
            while block := file.read(1 << 20):
                digest.update(block)
            return
        digest.update(file.read(_SAMPLED_BYTES))
        if size > 2 * _SAMPLED_BYTES:
            file.seek(-_SAMPLED_BYTES, os.SEEK_END)
            digest.update(file.read())


def digest_array(values: Any) -> str:
    """Hash an array of numbers or of strings."""
    array = np.asarray(values)
    digest = hashlib.blake2b(f"{array.shape}".encode(), digest_size=16)
    if array.dtype.kind in "OUST":
        for value in array.reshape(-1):
            digest.update(str(value).encode() + b"\0")
    else:
        digest.update(array.dtype.str.encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def digest_rows(rows: Csr) -> str:
    """Hash sparse rows."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (rows.indptr, rows.indices, rows.data):
        digest.update(digest_array(part).encode())
    return digest.hexdigest()


def stored_hashes(
    table: StoredTable, slice_column: str | None, coordinates_from: str | Annotation
) -> dict[str, str]:
    """Hash the inputs of a stored table by what they are, from its files.

    Parameters
    ----------
    table
        The table.
    slice_column
        obs column with the slices, or None.
    coordinates_from
        obsm key, or the elements the table annotates.
    """
    obs, var, store = table.path / "obs", table.path / "var", table.path.parents[1]
    if isinstance(coordinates_from, str):
        positions = [table.path / "obsm" / coordinates_from]
    else:
        regions = [
            store / kind / region for region in coordinates_from.regions for kind in ("shapes", "points")
        ]
        # only where there are some: a store without keeps its fingerprint
        rasters = [store / "labels" / region for region in coordinates_from.regions]
        regions += [raster for raster in rasters if raster.is_dir()]
        positions = [*regions, obs / coordinates_from.region_key, obs / coordinates_from.instance_key]
    hashes = {
        "counts": digest_files([table.counts_path]),
        "names": digest_files([obs / table.index_key("obs"), var / table.index_key("var")]),
        "coordinates": digest_files(positions),
    }
    if slice_column is not None:
        hashes["slices"] = digest_files([obs / slice_column], whole=True)
    return hashes


def memory_hashes(table: TableHandle, slice_column: str | None, coordinates: np.ndarray) -> dict[str, str]:
    """Hash the inputs of a table in memory by what they are; of the counts, rows at eight places."""
    counts, step = table.counts, max(table.n_spots // 8, 1)
    samples = [
        digest_rows(counts.read(start, min(start + _SAMPLED_ROWS, table.n_spots)))
        for start in range(0, table.n_spots, step)
    ]
    hashes = {
        "counts": digest_array([str(counts.nnz), *samples]),
        "names": digest_array([digest_array(table.obs_names()), digest_array(table.var_names())]),
        "coordinates": digest_array(coordinates),
    }
    if slice_column is not None:
        hashes["slices"] = digest_array(np.asarray(table.obs_column(slice_column)).astype(str))
    return hashes
