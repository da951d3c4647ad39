"""Paths as people give them: of this machine, with ``~`` or as ``file://`` addresses."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from urllib.parse import unquote, urlsplit

from atlasnmf.errors import BadInput

__all__ = ["local_path"]


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
