"""One self-contained HTML page about what a store's results say; no network, no script."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atlasnmf.errors import BadInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from atlasnmf.store.atlas import Atlas

__all__ = ["write_report"]

_DPI = 80
_TOP_GENES = 10


@dataclass(frozen=True)
class FactorCard:
    """What one factor looks like and which genes make it."""

    number: int
    picture: str
    genes: list[str]
    shares: dict[str, float] = field(default_factory=dict)


def write_report(store: str, out: str | os.PathLike[str]) -> Path:
    """Write the page.

    Parameters
    ----------
    store
        A SpatialData store with results of at least one model.
    out
        The HTML file; replaced atomically when it exists.

    Returns
    -------
    The path written.

    Raises
    ------
    BadInput
        The store has no results, or the folder of ``out`` does not exist.
    """
    from jinja2 import Environment, PackageLoader, select_autoescape

    from atlasnmf.store.atlas import open_atlas

    out = Path(out)
    if not out.parent.is_dir():
        raise BadInput(f"there is no folder {out.parent} for the report; create it first")
    atlas = open_atlas(store)
    sections = [_section(_as_fitted(atlas, uns), model, uns) for model, uns in _results(atlas).items()]
    if not sections:
        raise BadInput(f"{store} has no results yet; run: atlasnmf fit inspire {store}")
    page = Environment(
        loader=PackageLoader("atlasnmf.plots", "templates"), autoescape=select_autoescape(["html", "j2"])
    )
    html = page.get_template("report.html.j2").render(store=str(store), atlas=atlas, sections=sections)
    scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    scratch.write_text(html)
    scratch.replace(out)
    return out


def _results(atlas: Atlas) -> dict[str, dict[str, Any]]:
    """Find the results in the store, by what a fit left in ``uns``; the first table that has one speaks."""
    found: dict[str, dict[str, Any]] = {}
    for table in atlas.tables:
        for key in table.keys("uns"):
            fields = table.uns_keys(key)
            if key not in found and "status" in fields and "params" in fields:
                found[key] = table.uns(key)
    return found


def _as_fitted(atlas: Atlas, uns: dict[str, Any]) -> Atlas:
    """Open the store with the slices a fit saw: one table may hold several."""
    from atlasnmf.store.atlas import open_atlas

    key = str(uns.get("slice_key", ""))
    return open_atlas(atlas.path or atlas.source, slice_key=key) if key else atlas


def _section(atlas: Atlas, key: str, uns: dict[str, Any]) -> dict[str, Any]:
    from atlasnmf import plots

    figures = {}
    if "history" in uns:
        figures["history"] = _picture(plots.history(uns["history"]))
    if "ranks" in uns and "instability_hungarian_mean" in uns:
        figures["instability"] = _picture(plots.instability(uns))
    if any(f"{key}_regions" in table.keys("uns") for table in atlas.tables):
        figures["regions"] = _picture(plots.region_bubbles(atlas, key))
    return {
        "key": key,
        "uns": uns,
        "figures": figures,
        "cards": _cards(atlas, key),
        "quality": uns.get("quality", {}),
    }


def _cards(atlas: Atlas, key: str) -> list[FactorCard]:
    import numpy as np

    table = atlas.tables[0]
    weights = [name for name in (f"{key}_loadings", f"{key}_coefficients") if name in table.keys("varm")]
    if not weights:
        return []
    loadings = np.asarray(table.varm(weights[0]))
    draw = _map_of(atlas, key)
    genes = np.asarray(table.var_names())
    usable = np.isfinite(loadings).all(axis=1)
    loadings, genes = loadings[usable], genes[usable]
    # A gene names a factor when it weighs more there than elsewhere, not when it is merely abundant.
    lift = loadings / (loadings.mean(axis=1, keepdims=True) + 1e-12)
    cards = []
    for k in range(loadings.shape[1]):
        strong = np.argsort(-loadings[:, k])[:50]
        top = strong[np.argsort(-lift[strong, k])][:_TOP_GENES]
        picture = _picture(draw(k))
        cards.append(FactorCard(k, picture, genes[top].tolist()))
    return cards


def _map_of(atlas: Atlas, key: str) -> Callable[[int], Any]:
    """Return what draws one factor: a map of each slice, or a volume along its three axes."""
    from atlasnmf import plots

    if atlas.coordinates_of(atlas.tables[0]).shape[1] == 3:
        return lambda k: plots.projections(atlas, key, patterns=[k])
    return lambda k: plots.factors(atlas, key, factors=[k])


def _picture(axes: Any) -> str:
    """Draw the figure of some axes as an inline PNG."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure: Figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight")
    plt.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
