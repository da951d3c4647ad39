"""The one style of all figures; matplotlib's own settings are never changed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

__all__ = ["CONTINUOUS", "MISSING", "category_colours", "styled"]

#: Perceptually even, readable in grey and by colour-blind eyes.
CONTINUOUS = "viridis"
#: Spots left out of a fit.
MISSING = "#d9d9d9"

#: Okabe and Ito, "Color universal design" (2008), without black.
_BASE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#7f7f7f")

_RC: dict[str, Any] = {
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "figure.facecolor": "white",
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.0,
    "savefig.dpi": 200,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


def styled() -> AbstractContextManager[None]:
    """Return a context in which figures are made in the style; settings are restored on leaving it."""
    from matplotlib import rc_context

    return rc_context(_RC)  # type: ignore[arg-type]


def category_colours(n_colours: int) -> list[tuple[float, float, float]]:
    """Return distinct colours: eight that any eye tells apart, then darker and lighter ones, then repeats.

    Examples
    --------
    >>> len(set(category_colours(24))), category_colours(30)[24] == category_colours(30)[0]
    (24, True)
    """
    from matplotlib.colors import to_rgb

    def mixed(colour: str, towards: float, share: float) -> tuple[float, float, float]:
        red, green, blue = (share * towards + (1 - share) * channel for channel in to_rgb(colour))
        return red, green, blue

    shades = [mixed(colour, 0.0, 0.0) for colour in _BASE]
    shades += [mixed(colour, 0.0, 0.45) for colour in _BASE]
    shades += [mixed(colour, 1.0, 0.55) for colour in _BASE]
    return [shades[i % len(shades)] for i in range(n_colours)]
