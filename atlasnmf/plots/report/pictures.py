"""Figures of matplotlib as small inline pictures."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.plots.report.mosaic import Picture, encoded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["picture_of"]

_DPI = 120
_COLOURS = 128


def picture_of(axes: Any, dpi: int = _DPI) -> Picture:
    """Draw the figure of some axes with 128 colours, and close it."""
    import matplotlib.pyplot as plt
    from PIL import Image

    figure: Figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    buffer.seek(0)
    with Image.open(buffer) as drawn:
        return encoded(drawn.convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE))
