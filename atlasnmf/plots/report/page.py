"""The page itself: gather, fill the template, write the file in one step."""

from __future__ import annotations

import os
import re
import shlex
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.plots.report.facts import Found, found_results
from atlasnmf.plots.report.groupings import groupings
from atlasnmf.plots.report.sections import section_of

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas

__all__ = ["write_report"]

#: Pixels of all maps together: about 10 MB of page.
_ALL_PIXELS, _FEWEST, _MOST = 17_000_000, 24_000, 240_000


def write_report(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str] = "report.html",
    *,
    unit: str = "",
    overwrite: bool = True,
) -> Path:
    """Write one self-contained HTML page about the results in a store: no network, no script.

    Parameters
    ----------
    store
        A SpatialData store with results of at least one model.
    out
        The HTML file.
    unit
        Unit of the coordinates for the scale bars: ``"µm"``, or of pixels their size, ``"0.5 µm"``. What the
        store says of it when not given.
    overwrite
        Replace the file if it exists.

    Returns
    -------
    The path written; the file appears whole or not at all.

    Raises
    ------
    BadInput
        The store has no results, or the folder of ``out`` does not exist.
    BadOption
        The file exists and may not be replaced.

    Notes
    -----
    Factors are read once, in runs of 65,536 spots, and summed over the pixels of their maps; beside that,
    positions, slices and groups are held, some 60 bytes per spot. Maps are smaller where there are many
    factors, so the page stays under 15 MB.

    Examples
    --------
    >>> from atlasnmf.plots.report import write_report
    >>> write_report("embryo.zarr", "report.html")
    PosixPath('report.html')
    """
    from atlasnmf.plots.panels import read_unit
    from atlasnmf.plots.stored import unit_of
    from atlasnmf.store.atlas import open_atlas
    from atlasnmf.store.paths import new_file

    out = new_file(out)
    read_unit(unit)
    if out.exists() and not overwrite:
        raise BadOption(f"{out} exists already; name another file or leave out --no-overwrite")
    atlas = open_atlas(str(store))
    again = shlex.join(
        ["atlasnmf", "report", str(store), "-o", out.name, *(["--unit", unit] if unit else [])]
    )
    unit = unit or unit_of(atlas)
    results = found_results(atlas, unit)
    if not results:
        raise BadInput(f"{store} has no results yet; run: atlasnmf fit inspire {shlex.quote(str(store))}")
    html = _html(atlas, results, str(store), unit, again)
    scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    scratch.write_text(html, encoding="utf-8")
    scratch.replace(out)
    return out


def _html(atlas: Atlas, results: list[Found], store: str, unit: str, again: str) -> str:
    from jinja2 import Environment, PackageLoader, select_autoescape

    from atlasnmf.store.describe import describe

    n_maps = 6 + sum(
        tables[0].obsm_rows(key, 0, 1).shape[1]
        for found in results
        for key, tables in found.factor_arrays().items()
    )
    most_pixels = int(np.clip(_ALL_PIXELS / n_maps, _FEWEST, _MOST))
    sections = [section_of(found, most_pixels=most_pixels) for found in results]
    # The slices a fit saw may be columns that the tables alone do not tell.
    widest = max((found.atlas for found in results), key=lambda seen: seen.n_slices)
    flat = atlas.coordinates_of(atlas.tables[0]).shape[1] == 2
    description = describe(atlas)
    environment = Environment(
        loader=PackageLoader("atlasnmf.plots", "templates"), autoescape=select_autoescape(["html", "j2"])
    )
    environment.filters |= {"number": lambda value: f"{value:,}", "anchor": _anchor}
    return environment.get_template("report.html.j2").render(
        store=store,
        again=again,
        title=Path(store).name,
        atlas=widest,
        tables=atlas.tables,
        n_genes=len(atlas.genes),
        per_spot=description.nnz / max(atlas.n_spots, 1),
        sections=sections,
        groupings=groupings(widest, unit=unit, most_pixels=most_pixels) if flat else [],
        warnings=_warnings(description, sections, store),
        version=version("atlasnmf"),
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
    )


def _warnings(description: Any, sections: list[Any], store: str) -> list[tuple[str, str]]:
    """Return warnings with the section they concern, or none."""
    found = [(section.key, text) for section in sections for text in section.warnings]
    if description.interrupted:
        model = description.interrupted
        found.append(("", f"{model} was interrupted and can go on: atlasnmf resume {shlex.quote(store)}"))
    return found


def _anchor(name: str) -> str:
    """Return a name that a link may point to.

    Examples
    --------
    >>> _anchor("run 2 (inspire)")
    'run-2-inspire'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "section"
