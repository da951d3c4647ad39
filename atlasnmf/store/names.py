"""Names: the natural order of tables, and the nearest one when the one asked for is not there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from atlasnmf.errors import BadOption

__all__ = ["is_safe", "natural_key", "no_such", "refuse_unsafe", "safe_name"]

#: Bytes of a name at most: file systems end at 255, and results add to the names of fits.
_LONGEST = 200


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


def is_safe(name: str) -> bool:
    """Whether SpatialData and file systems accept a name.

    Letters of any script, digits, underscores, dots and hyphens; two underscores or a dot do not come first.

    Examples
    --------
    >>> [is_safe(name) for name in ("Zürich_2", "a/b", "..", "__x", "x" * 201)]
    [True, False, False, False, False]
    """
    return re.fullmatch(r"(?!__|\.)[\w.-]+", name) is not None and len(name.encode()) <= _LONGEST


def safe_name(name: str) -> str:
    """Make a name of which :func:`is_safe` is true.

    Examples
    --------
    >>> safe_name("DLPFC (151673)"), safe_name("__x"), safe_name("tümör 1")
    ('DLPFC_151673', 'x', 'tümör_1')
    """
    cleaned = re.sub(r"[^\w.-]+", "_", name)
    cleaned = re.sub(r"^__+|^\.+|_+$", "", cleaned)
    return cleaned.encode()[:_LONGEST].decode(errors="ignore") or "unnamed"


def refuse_unsafe(kind: str, name: str) -> None:
    """Refuse a name that cannot be stored.

    Raises
    ------
    BadOption
        Naming one that can.
    """
    if is_safe(name):
        return
    if len(name.encode()) > _LONGEST:
        raise BadOption(f"{kind} {name[:20] + '…'!r} is too long; take at most {_LONGEST} bytes")
    raise BadOption(
        f"{kind} {name!r} is no name SpatialData accepts (letters, digits, '_', '-' and '.', not '__' or '.' "
        f"first); take {safe_name(name)!r}"
    )
