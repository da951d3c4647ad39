"""Mappings of many small entries as zarr nodes: what a fit tells of itself, for ``uns``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.vlen import VLenUTF8
from numcodecs.zstd import Zstd

from atlasnmf.store.writer import write_element

__all__ = ["write_record"]

#: Arrays up to this size, in bytes, are one chunk with zarr's own settings.
_ONE_CHUNK = 1 << 14
_VERSIONS = {"dict": "0.1.0", "null": "0.1.0"}
_COMPRESSED = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}


def write_record(path: Path, value: Mapping[str, Any], *, zarr_format: int = 3) -> None:
    """Write a mapping as a zarr node of its own, with AnnData's encoding.

    A record has a hundred arrays of a number or a word. AnnData and zarr take half a second of processor time
    for them, nearly all of it between threads; here numbers, words and short arrays are written as the very
    files these would write, and AnnData gets the rest.

    Parameters
    ----------
    path
        Directory of the node; made here.
    value
        Anything AnnData can write into ``uns``.
    zarr_format
        2 or 3, that of the store it is for. AnnData writes all of a record of format 2.

    Raises
    ------
    ValueError
        A name has a slash, or is that of a folder itself.
    """
    if not {".", ".."}.isdisjoint(value):
        raise ValueError(f"{path.name} has an entry '.' or '..', which no store can keep")
    if zarr_format != 3 or any(not isinstance(key, str) or "/" in key for key in value):
        write_element(path.parent, path.name, dict(value), zarr_format=zarr_format)
        return
    path.mkdir(parents=True)
    _write_node(path, {"attributes": _encoding("dict"), "zarr_format": 3, "node_type": "group"})
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            write_record(path / key, entry)
        elif not _write_plain(path / key, entry):
            write_element(path, key, entry)


def _write_plain(path: Path, entry: Any) -> bool:
    """Write a number, a word, None, or a short array of numbers or words; return whether it is one."""
    if isinstance(entry, list) and {type(part) for part in entry} in ({str}, {int}, {float}, {bool}):
        entry = np.array(entry)
    if entry is None:
        _write_array(path, "null", np.zeros((), bool))
    elif isinstance(entry, str):
        _write_array(path, "string", np.array(str(entry), dtype=object))
    elif isinstance(entry, (bool, int, float, np.bool_, np.integer, np.floating)):
        number = np.asarray(entry)
        if number.dtype.kind not in "biuf":  # beyond 64 bits
            return False
        _write_array(path, "numeric-scalar", number)
    elif isinstance(entry, np.ndarray) and 0 < entry.nbytes <= _ONE_CHUNK and entry.ndim:
        if entry.dtype.kind == "U":
            _write_array(path, "string-array", entry.astype(object))
        elif entry.dtype.kind in "biuf" and type(entry) is np.ndarray:
            _write_array(path, "array", np.ascontiguousarray(entry))
        else:
            return False
    else:
        return False
    return True


def _write_array(path: Path, encoding: str, values: np.ndarray) -> None:
    """Write an array of one chunk; a chunk that holds nothing but what is filled in is left out."""
    words = values.dtype.kind == "O"
    little: dict[str, Any] = {"name": "bytes"}
    if values.itemsize > 1:
        little["configuration"] = {"endian": "little"}
    fill: Any = "" if words else np.zeros((), values.dtype).item()
    path.mkdir()
    metadata = {
        "shape": list(values.shape),
        "data_type": "string" if words else values.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(values.shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [{"name": "vlen-utf8", "configuration": {}} if words else little, _COMPRESSED],
        "attributes": _encoding(encoding),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }
    _write_node(path, metadata)
    plain = (
        VLenUTF8().encode(values.ravel())
        if words
        else values.astype(values.dtype.newbyteorder("<")).tobytes()
    )
    if (values == fill).all() if words else not any(plain):
        return
    chunk = path.joinpath("c", *["0"] * values.ndim)
    chunk.parent.mkdir(parents=True, exist_ok=True)
    chunk.write_bytes(Zstd(level=0).encode(plain))


def _encoding(name: str) -> dict[str, str]:
    return {"encoding-type": name, "encoding-version": _VERSIONS.get(name, "0.2.0")}


def _write_node(path: Path, metadata: Mapping[str, Any]) -> None:
    (path / "zarr.json").write_text(json.dumps(metadata, indent=2))
