"""Regions and the regions they are part of, read from a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from atlasnmf.errors import BadInput

__all__ = ["Ontology", "read_ontology"]

_ID = ("id", "structure_id", "region_id")
_ACRONYM = ("acronym", "abbreviation", "abbrev", "symbol")
_NAME = ("name", "safe_name", "structure", "structure_name", "region")
_PARENT = ("parent_structure_id", "parent_id", "parent")
_PATH = ("structure_id_path", "id_path", "path")


@dataclass(frozen=True)
class Ontology:
    """A tree (or several) of regions.

    Parameters
    ----------
    ids
        Numbers of the regions, as in an annotation volume, int64, shape (R,).
    acronyms
        Short names, unique.
    names
        Full names.
    parents
        Number of the region each one is part of, -1 for none, int64, shape (R,).
    """

    ids: np.ndarray
    acronyms: tuple[str, ...]
    names: tuple[str, ...]
    parents: np.ndarray

    @cached_property
    def _places(self) -> dict[int, int]:
        return {int(number): place for place, number in enumerate(self.ids)}

    def lineage(self, number: int) -> list[int]:
        """Return a region and all it is part of, the finest first.

        Raises
        ------
        BadInput
            A region is part of itself.
        """
        found: list[int] = []
        while number in self._places:
            if number in found:
                raise BadInput(f"region {number} of the ontology is part of itself; mend its parents")
            found.append(number)
            number = int(self.parents[self._places[number]])
        return found

    def acronym(self, number: int) -> str:
        """Return the short name of a region; its number when the table does not have it."""
        place = self._places.get(int(number))
        return str(number) if place is None else self.acronyms[place]

    def __contains__(self, number: object) -> bool:
        return number in self._places

    def membership(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Say which regions, of any level, the annotated ones are part of.

        Parameters
        ----------
        numbers
            Annotated regions, shape (L,); those the table lacks stand for themselves.

        Returns
        -------
        regions, contains
            Numbers of the R regions that hold at least one, int64, ascending, and bool of shape (R, L). Of
            regions that hold the same ones, the finest stands for all.
        """
        lineages = [self.lineage(int(number)) or [int(number)] for number in numbers]
        depths = {region: len(line) - i for line in lineages for i, region in enumerate(line)}
        regions = np.array(sorted(depths), np.int64)
        contains = np.zeros((len(regions), len(numbers)), bool)
        for column, line in enumerate(lineages):
            contains[np.searchsorted(regions, line), column] = True
        finest: dict[bytes, int] = {}
        for place in np.argsort([-depths[int(region)] for region in regions], kind="stable"):
            finest.setdefault(contains[place].tobytes(), int(place))
        kept = np.sort(list(finest.values()))
        return regions[kept], contains[kept]

    def record(self) -> dict[str, np.ndarray]:
        """Return the table as plain arrays, for ``uns``."""
        return {
            "id": self.ids,
            "acronym": np.array(self.acronyms, dtype=object),
            "name": np.array(self.names, dtype=object),
            "parent": self.parents,
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Ontology:
        """Return what :meth:`record` was made of."""
        return cls(
            np.asarray(record["id"], np.int64),
            tuple(str(name) for name in record["acronym"]),
            tuple(str(name) for name in record["name"]),
            np.asarray(record["parent"], np.int64),
        )


def read_ontology(path: Path | str) -> Ontology:
    """Read regions from a CSV, TSV or Parquet table.

    Parameters
    ----------
    path
        One row per region with columns for its number (``id``), its short name (``acronym``), optionally its
        ``name``, and its parent: the parent's number (``parent_structure_id``, ``parent_id``) or the numbers
        from the root down (``structure_id_path``, such as ``/997/8/567/``), as the Allen Institute has it.

    Raises
    ------
    BadInput
        No such file, a column is missing, or a number or a short name occurs twice.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise BadInput(
            f"there is no ontology table {path}; give a CSV with columns id, acronym and parent_id"
        )
    try:
        if path.suffix == ".parquet":
            stored = pd.read_parquet(path)
            frame = stored.astype(object).where(stored.notna(), "").astype(str)
        else:
            frame = pd.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} cannot be read as a table ({error}); write it as CSV or Parquet") from None
    frame = frame.rename(columns=lambda name: str(name).strip().lower())
    numbers = _whole(frame, _column(frame, _ID, path), path)
    acronyms = tuple(frame[_column(frame, _ACRONYM, path)].str.strip())
    name = _column(frame, _NAME, path, required=False)
    parent = _column(frame, _PARENT, path, required=False)
    if parent is not None:
        parents = _whole(frame, parent, path, missing=-1)
    else:
        parents = _parents_of_paths(frame[_column(frame, _PATH, path)])
    for what, values in (("id", numbers.tolist()), ("acronym", list(acronyms))):
        twice = next((value for i, value in enumerate(values) if value in values[:i]), None)
        if twice is not None:
            raise BadInput(f"{what} {twice!r} occurs twice in {path}; keep one row per region")
    return Ontology(numbers, acronyms, acronyms if name is None else tuple(frame[name]), parents)


def _column(frame: Any, choices: tuple[str, ...], path: Path, *, required: bool = True) -> Any:
    found = next((name for name in choices if name in frame.columns), None)
    if found is None and required:
        there = ", ".join(frame.columns)
        raise BadInput(f"{path} has no column {' or '.join(choices[:2])!s}; there are {there}")
    return found


def _whole(frame: Any, column: str, path: Path, *, missing: int | None = None) -> np.ndarray:
    out = np.empty(len(frame), np.int64)
    for row, text in enumerate(frame[column].str.strip()):
        if missing is not None and text.lower() in ("", "nan", "null", "none"):
            out[row] = missing
            continue
        try:
            out[row] = int(float(text))
        except (ValueError, OverflowError):
            raise BadInput(f"row {row + 1} of {path} has {text!r} for {column}; write a number") from None
    return out


def _parents_of_paths(paths: Any) -> np.ndarray:
    steps = [[int(step) for step in str(path).strip("/").split("/") if step] for path in paths]
    return np.array([path[-2] if len(path) > 1 else -1 for path in steps], np.int64)
