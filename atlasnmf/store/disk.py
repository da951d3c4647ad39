"""A disk that is full or may not be written is the user's to mend, not a bug."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlasnmf.errors import BadInput, BadOption

__all__ = ["full_disk_is_said", "refuse_unwritable", "refuse_unwritable_store"]

#: Parts of a table that results go into.
_PARTS = ("obs", "obsm", "varm", "layers", "uns")


@contextmanager
def full_disk_is_said(path: Path) -> Iterator[None]:
    """Turn "no space left" inside into one line.

    Raises
    ------
    BadOption
        The disk of ``path``, or the quota, is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise BadOption(
            f"the disk of {path} is full; free some space and run the command again: what is done stays done"
        ) from None


def refuse_unwritable(place: Path, mend: str) -> None:
    """Refuse a folder that cannot be written, or made.

    Raises
    ------
    BadInput
        Saying why, with the mend.
    """
    there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    if os.access(there, os.W_OK):
        return
    read_only = os.statvfs(there).f_flag & os.ST_RDONLY
    why = "its disk is read-only" if read_only else "you may not write there"
    raise BadInput(f"{place} cannot be written ({why}); {mend}")


def refuse_unwritable_store(store: Path) -> None:
    """Refuse a store that results cannot go into, before any work.

    Raises
    ------
    BadInput
        A folder of the store that takes part cannot be written.
    """
    tables = sorted((store / "tables").glob("[!.]*/"))
    parts = [table / part for table in tables for part in _PARTS]
    for place in (store, store / "tables", *tables, *(part for part in parts if part.is_dir())):
        refuse_unwritable(place, "results go into the store: copy it to a place that you may write")
