"""All slices in one small picture, drawn straight from sums over pixels: fast enough for every factor."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf.plots.panels import bar_length
from atlasnmf.plots.style import CONTINUOUS, MISSING

if TYPE_CHECKING:
    import scipy.sparse

__all__ = ["Mosaic", "Picture", "Tile", "mosaic_of"]

#: Steps of colour: what an eye tells apart on a small map, and a third of the bytes of 256.
_LEVELS = 40
_PAPER, _GREY, _INK = 0, 1, 2
_FIRST = 6
_GAP, _TITLE, _LETTERS = 8, 19, 14
#: Spots nearer than this many pixels are averaged; those farther apart each fill the pixels around them.
_DENSE_PITCH = 1.3
#: Spots nearer than this leave no pixel out.
_PACKED_PITCH = 0.3
_MOST_COLUMNS = 8


@dataclass(frozen=True)
class Picture:
    """An inline picture: its data address, and its size in pixels."""

    data: str
    width: int
    height: int


@dataclass(frozen=True)
class Tile:
    """One slice: its name and the first two coordinates of its spots, float64, shape (n, 2)."""

    name: str
    xy: np.ndarray


@dataclass(frozen=True)
class Mosaic:
    """Where every slice lies in a picture, and which spots every pixel shows.

    Parameters
    ----------
    names
        Of the slices.
    boxes
        Left, top, width and height of each slice's place, pixels.
    size
        Width and height of the picture.
    pixels_per_unit
        The scale, the same for all slices.
    weights
        Share of a pixel that a spot has, float32, CSC, shape (pixels, spots); spots in the slices' order.
    unit
        Of the coordinates, or empty.
    """

    names: tuple[str, ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    size: tuple[int, int]
    pixels_per_unit: float
    weights: scipy.sparse.csc_matrix
    unit: str = ""

    @property
    def n_pixels(self) -> int:
        """Pixels of the picture."""
        return self.size[0] * self.size[1]

    @cached_property
    def bar(self) -> tuple[float, int]:
        """Length of the scale bar in units of the coordinates and in pixels."""
        length = bar_length(0.3 * self.boxes[0][2] / self.pixels_per_unit, self.unit)
        return length, max(round(length * self.pixels_per_unit), 2)

    def paint(self, means: np.ndarray, limit: float, *, start: float = 0.0) -> Picture:
        """Draw one value per pixel.

        Parameters
        ----------
        means
            Shape (pixels,): NaN where no spot lies, -inf where spots lie and none has a value.
        start, limit
            Values at the ends of the colours.
        """
        import matplotlib as mpl

        image = np.full(self.n_pixels, _PAPER, np.uint8)
        known = np.isfinite(means)
        scaled = (np.clip(means[known], start, limit) - start) / max(limit - start, 1e-30)
        image[known] = _FIRST + np.minimum(scaled * _LEVELS, _LEVELS - 1).astype(np.uint8)
        image[np.isneginf(means)] = _GREY
        return self._finish(image, mpl.colormaps[CONTINUOUS](np.linspace(0, 1, _LEVELS))[:, :3])

    def paint_groups(self, codes: np.ndarray, colours: Sequence[Any]) -> Picture:
        """Draw one group a pixel: int, shape (pixels,), -1 for paper and -2 for spots without a group."""
        image = np.full(self.n_pixels, _PAPER, np.uint8)
        image[codes >= 0] = _FIRST + codes[codes >= 0].astype(np.uint8)
        image[codes == -2] = _GREY
        return self._finish(image, np.asarray(colours, float).reshape(-1, 3))

    def _finish(self, image: np.ndarray, colours: np.ndarray) -> Picture:
        from matplotlib.colors import to_rgb
        from PIL import Image

        width, height = self.size
        image = np.maximum(image.reshape(height, width), self._lettering)
        fixed = [to_rgb(colour) for colour in ("white", MISSING, "#1d2733", "#5a626b", "#979da3", "#cfd2d5")]
        palette = np.round(255 * np.vstack([fixed, colours])).astype(np.uint8)
        picture = Image.fromarray(image)
        picture.putpalette(palette.ravel().tolist())
        return encoded(picture)

    @cached_property
    def _lettering(self) -> np.ndarray:
        """Names of slices and the scale bar as palette numbers, uint8, shape (height, width)."""
        from PIL import Image, ImageDraw, ImageFont

        width, height = self.size
        grey = Image.new("L", (width, height), 0)
        pen = ImageDraw.Draw(grey)
        font = ImageFont.load_default(size=_LETTERS)
        for name, (left, top, wide, _) in zip(self.names, self.boxes, strict=True):
            shown = name
            while len(shown) > 3 and pen.textlength(shown, font=font) > wide + _GAP - 2:
                shown = shown.removesuffix("…")[:-1] + "…"
            pen.text((left, top - _TITLE + 1), shown, fill=255, font=font)
        left, top, _, tall = self.boxes[0]
        pen.rectangle((left, top + tall + 2, left + self.bar[1], top + tall + 4), fill=255)
        shade = np.asarray(grey)
        steps = np.select([shade > 200, shade > 130, shade > 70, shade > 25], [_INK, 3, 4, 5], 0)
        return steps.astype(np.uint8)


def encoded(picture: Any) -> Picture:
    """Return a Pillow image as an inline PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    text = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(text, picture.width, picture.height)


def mosaic_of(
    tiles: Sequence[Tile], *, width: int = 560, most_pixels: int = 260_000, unit: str = ""
) -> Mosaic:
    """Lay slices out at one scale and find the spots behind every pixel.

    Parameters
    ----------
    tiles
        The slices; each has spots.
    width
        Of the picture, pixels, at most.
    most_pixels
        Of the whole picture.
    unit
        Of the coordinates.

    Notes
    -----
    16 bytes per spot are kept. Where spots are sparse a pixel takes the nearest within 0.8 of their pitch.
    """
    import scipy.sparse

    corners = [np.stack([tile.xy.min(axis=0), tile.xy.max(axis=0)]) for tile in tiles]
    span = np.maximum(np.max([high - low for low, high in corners], axis=0), 1e-9)
    span = np.maximum(span * 1.02, 0.02 * span.max())
    columns, scale = _layout(len(tiles), span, width, most_pixels)
    wide, tall = (max(int(np.ceil(side * scale)), 2) for side in span)
    rows = -(-len(tiles) // columns)
    size = (columns * (wide + _GAP) + _GAP, rows * (tall + _TITLE + _GAP) + _GAP)
    boxes, pixels, spots, shares = [], [], [], []
    start = 0
    for number, (tile, corner) in enumerate(zip(tiles, corners, strict=True)):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (wide + _GAP), row * (tall + _TITLE + _GAP) + _TITLE
        boxes.append((left, top, wide, tall))
        offset = corner.mean(axis=0) - span / 2
        places = (tile.xy - offset) * scale
        local, spot, share = _behind(places, (wide, tall), corner[1] - corner[0], scale)
        pixels.append((top + local // wide) * size[0] + left + local % wide)
        spots.append(spot + start)
        shares.append(share)
        start += len(tile.xy)
    shape = (size[0] * size[1], start)
    parts = np.concatenate(shares), (np.concatenate(pixels), np.concatenate(spots))
    weights = scipy.sparse.csc_matrix(parts, shape=shape, dtype=np.float32)
    return Mosaic(tuple(tile.name for tile in tiles), tuple(boxes), size, scale, weights, unit)


def _layout(n_tiles: int, span: np.ndarray, width: int, most_pixels: int) -> tuple[int, float]:
    """Return the number of columns that makes slices largest, and pixels per unit."""
    best = (1, 0.0)
    for columns in range(1, min(n_tiles, _MOST_COLUMNS) + 1):
        rows = -(-n_tiles // columns)
        by_width = (width - _GAP * (columns + 1)) / columns / span[0]
        by_area = np.sqrt(most_pixels / (rows * columns * span[0] * span[1]))
        # no picture is taller than wide, or a card is mostly one map
        by_height = max(width / rows - _TITLE - _GAP, 20.0) / span[1]
        scale = min(by_width, by_area, by_height)
        if scale > best[1]:
            best = (columns, float(scale))
    return best


def _behind(
    places: np.ndarray, box: tuple[int, int], span: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels, spots and shares of the spots behind the pixels of one slice."""
    wide, tall = box
    pitch = scale * np.sqrt(0.7 * max(float(np.prod(span)), 1e-12) / len(places))
    shown = np.zeros(wide * tall, bool)
    parts = []
    if pitch <= _DENSE_PITCH:
        x = np.clip(places[:, 0].astype(np.int64), 0, wide - 1)
        y = np.clip(places[:, 1].astype(np.int64), 0, tall - 1)
        pixel = y * wide + x
        parts.append((pixel, np.arange(len(places)), 1.0 / np.bincount(pixel)[pixel]))
        shown[pixel] = True
    if pitch > _PACKED_PITCH:
        # pixels that fell between spots take the nearest one
        from scipy.spatial import cKDTree

        bare = np.flatnonzero(~shown)
        centres = np.column_stack([bare % wide, bare // wide]) + 0.5
        _, nearest = cKDTree(places).query(centres, distance_upper_bound=max(0.8 * pitch, 1.2))
        reached = nearest < len(places)
        parts.append((bare[reached], nearest[reached], np.ones(int(reached.sum()))))
    pixels, spots, shares = zip(*parts, strict=True)
    return np.concatenate(pixels), np.concatenate(spots), np.concatenate(shares)
