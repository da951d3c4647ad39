"""Mappings of many small entries as zarr nodes: what a fit tells of itself, for ``uns``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_record"]


def write_record(path: Path, value: Mapping[str, Any], *, zarr_format: int = 3) -> None:
    """Write a mapping as a zarr node of its own, with AnnData's encoding.

    The files are laid out in memory first. A record has a hundred arrays of a number or a word, and for each
    of them zarr asks a dozen times what is there: on a disk that takes longer than everything else.

    Parameters
    ----------
    path
        Directory of the node; made here.
    value
        Anything AnnData can write into ``uns``.
    zarr_format
        2 or 3, that of the store it is for.
    """
    import anndata
    import zarr

    files: dict[str, Any] = {}
    root = zarr.open_group(zarr.storage.MemoryStore(files), mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    with anndata.settings.override(auto_shard_zarr_v3=False, allow_write_nullable_strings=True):
        anndata.io.write_elem(root, "record", value)
    for name, contents in files.items():
        folder, _, rest = name.partition("/")
        if folder == "record":
            (path / rest).parent.mkdir(parents=True, exist_ok=True)
            (path / rest).write_bytes(contents.to_bytes())
