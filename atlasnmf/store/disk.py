"""A disk that fills up is the user's to mend, not a bug."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atlasnmf.errors import BadOption

__all__ = ["full_disk_is_said"]


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
