"""Names: the natural order of tables, and the nearest one when the one asked for is not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

__all__ = ["natural_key", "no_such", "safe_name"]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``slice_10`` after ``slice_2``.

    Examples
    --------
    >>> sorted(["s10", "s2", "a"], key=natural_key)
    ['a', 's2', 's10']
    """
    pieces = re.split(r"(\d+)", name)
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece.lower()) for piece in pieces if piece]


def no_such(kind: str, name: str, names: Iterable[str], where: str) -> str:
    """Say that a name does not exist, with the nearest ones that do.

    Examples
    --------
    >>> no_such("table", "slize_1", ["slice_1", "slice_2"], "embryo.zarr")
    "no table 'slize_1' in embryo.zarr; did you mean 'slice_1'? there are slice_1, slice_2"
    """
    known = [str(known) for known in names]
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    listing = _listing(known)
    return f"no {kind} {name!r} in {where};{hint} {listing}"


def _listing(names: Sequence[str], most: int = 12) -> str:
    if not names:
        return "there are none"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"there are {', '.join(names[:most])}{more}"


def safe_name(name: str) -> str:
    """Make a name SpatialData accepts: letters, digits, underscores, dots and hyphens.

    Examples
    --------
    >>> safe_name("DLPFC (151673)"), safe_name("__x")
    ('DLPFC_151673', 'x')
    """
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
    cleaned = re.sub(r"^__+|^\.+|_+$", "", cleaned)
    return cleaned or "unnamed"
