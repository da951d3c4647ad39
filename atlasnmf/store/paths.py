"""Paths as people give them, with ``~`` or as ``file://`` addresses, and the place beside a store."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from urllib.parse import unquote, urlsplit

from atlasnmf.errors import BadInput
from atlasnmf.store.disk import refuse_unwritable

__all__ = ["local_path", "new_file", "new_folder", "working_path"]


def local_path(given: str | PathLike[str]) -> Path:
    """Return the path of a file or store of this machine.

    Parameters
    ----------
    given
        A path, which may begin with ``~``, or a ``file://`` address.

    Raises
    ------
    BadInput
        It is an address of another machine, such as ``s3://``.

    Examples
    --------
    >>> local_path("file:///data/my%20atlas.zarr").as_posix(), local_path("atlas.zarr/").as_posix()
    ('/data/my atlas.zarr', 'atlas.zarr')
    """
    text = str(given)
    # a Path folds the two slashes into one
    address = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text)
    if address is None or Path(given).exists():
        return Path(given).expanduser()
    if address[1].lower() != "file":
        raise BadInput(
            f"{text} is an address and not a path of this machine; copy the data here, or mount it and give "
            "its path"
        )
    return Path(unquote(urlsplit(text).path))


def new_file(given: str | PathLike[str]) -> Path:
    """Return the path of a file to write, whose folder is there.

    Parameters
    ----------
    given
        As :func:`local_path` takes it; the file may exist.

    Raises
    ------
    BadInput
        Its folder is missing or cannot be written, or it is a folder itself.
    """
    path = local_path(given)
    if not path.parent.is_dir():
        raise BadInput(f"there is no folder {path.parent} for {path.name}; create it first")
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name a file in it")
    refuse_unwritable(path.parent, f"name another place for {path.name}")
    return path


def new_folder(given: str | PathLike[str]) -> Path:
    """Return the path of a folder to write files in, made with its parents where missing.

    Raises
    ------
    BadInput
        Something on the way is a file, or cannot be written.
    """
    path = local_path(given)
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise BadInput(f"{place} is a file and no folder; name another folder")
    refuse_unwritable(path, "name another folder")
    path.mkdir(parents=True, exist_ok=True)
    return path


def working_path(store: Path, work_dir: Path | str | None = None) -> Path:
    """Return where the working copy of a store lies: beside the store itself, by whatever path it is reached.

    Examples
    --------
    >>> working_path(Path("data/embryo.zarr")).as_posix()
    'data/embryo.zarr.atlasnmf'
    """
    if work_dir is not None:
        return Path(work_dir)
    if store.name in ("", "..") or store.is_symlink():
        # two ways to one store share one lock
        store = store.resolve()
    return store.with_name(store.name + ".atlasnmf")
