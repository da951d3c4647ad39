"""Gene images of one grid, its mask and its regions, opened together and checked against each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.grids import Grid, ImageFile, open_image, stem_of

__all__ = ["FileVolumes", "GeneVolumes", "open_volumes", "read_annotation", "read_gene_names", "read_mask"]


class GeneVolumes(Protocol):
    """One 3-D image a gene, all on one grid."""

    @property
    def grid(self) -> Grid:
        """The grid of all of them."""
        ...

    @property
    def genes(self) -> tuple[str, ...]:
        """Names, unique."""
        ...

    def image(self, gene: int) -> np.ndarray:
        """Return the values of one gene, shape ``grid.shape``; missing ones are NaN or a marker."""
        ...


@dataclass(frozen=True)
class FileVolumes:
    """Gene images in files, read when asked for.

    Parameters
    ----------
    grid
        The grid of all of them.
    genes
        Names, unique.
    sources
        File and image within it of each gene.
    first
        The file that says where voxels lie.
    """

    grid: Grid
    genes: tuple[str, ...]
    sources: tuple[tuple[ImageFile, int | None], ...]
    first: ImageFile

    def image(self, gene: int) -> np.ndarray:
        """Return the values of one gene, shape ``grid.shape``."""
        file, index = self.sources[gene]
        found = file.read(index)
        if found.dtype.kind not in "fiub":
            raise BadInput(f"{file.path} holds {found.dtype} values; gene images hold numbers")
        return found


def open_volumes(
    files: Sequence[Path | str],
    gene_names: Sequence[str] | None = None,
    *,
    spacing: tuple[float, ...] | None = None,
    unit: str | None = None,
) -> FileVolumes:
    """Open one image per gene, or one file with all of them along a fourth axis; only headers are read.

    Parameters
    ----------
    files
        NIfTI, NRRD or zarr.
    gene_names
        Names in the order of the images. When not given, a file with four axes must name them itself, and
        files with three are named after the file.
    spacing
        Distance of voxels, one for all axes or three, in place of what the files say.
    unit
        Unit of positions, in place of what the files say.

    Raises
    ------
    BadInput
        A file cannot be read, two lie on different grids, or names do not match images.
    """
    images = [open_image(file) for file in files]
    if not images:
        raise BadOption("there is nothing to ingest; name at least one image")
    sources, names = _sources(images, gene_names)
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise BadInput(f"two images are named {twice!r}; rename a file or give other names with --gene-names")
    first = images[0]
    shape = _grid_shape(first)
    for image in images[1:]:
        if _grid_shape(image) != shape:
            raise BadInput(
                f"{image.path} has {_by(_grid_shape(image))} voxels but {first.path} has {_by(shape)}; "
                "resample them onto one grid"
            )
        if not _same_place(first, image):
            raise BadInput(
                f"{image.path} and {first.path} lie at different places; register them onto one grid"
            )
    affine = np.eye(4) if first.affine is None else first.affine
    known = first.unit if first.affine is not None else "voxel"
    grid = Grid(shape, affine, known).respaced(spacing, unit)
    return FileVolumes(grid, tuple(names), tuple(sources), first)


def _sources(
    images: Sequence[ImageFile], gene_names: Sequence[str] | None
) -> tuple[list[tuple[ImageFile, int | None]], list[str]]:
    if len(images) == 1 and (images[0].image_axis is not None):
        image = images[0]
        names = list(gene_names if gene_names is not None else image.names or ())
        if not names:
            raise BadInput(
                f"{image.path} has several images and no names for them; give a file with --gene-names"
            )
        _settle_axis(image, len(names))
        return [(image, index) for index in range(len(names))], [str(name) for name in names]
    for image in images:
        if image.image_axis is not None:
            raise BadInput(f"{image.path} has several images; ingest it alone, or give one file per gene")
    if gene_names is not None and len(gene_names) != len(images):
        raise BadInput(f"{len(gene_names)} gene names for {len(images)} images; give one per image")
    names = [stem_of(image.path) for image in images] if gene_names is None else [*map(str, gene_names)]
    return [(image, None) for image in images], names


def _settle_axis(image: ImageFile, n_names: int) -> None:
    """Choose the axis as long as there are names: the format's own where it fits."""
    if len(image.shape) == 3:
        n_images = len(image.names or ())
        if n_images != n_names:
            raise BadInput(
                f"{n_names} gene names for the {n_images} arrays of {image.path}; give one per array"
            )
        return
    assert image.image_axis is not None
    fitting = [axis for axis, size in enumerate(image.shape) if size == n_names]
    if image.image_axis in fitting:
        return
    if len(fitting) != 1:
        raise BadInput(
            f"{n_names} gene names do not fit {image.path} of shape {image.shape}: "
            f"{'no' if not fitting else 'more than one'} axis is that long"
        )
    image.image_axis = fitting[0]


def _grid_shape(image: ImageFile) -> tuple[int, int, int]:
    along = image.image_axis if len(image.shape) == 4 else None
    found = tuple(size for axis, size in enumerate(image.shape) if axis != along)
    return found[0], found[1], found[2]


def _same_place(first: ImageFile, second: ImageFile) -> bool:
    """Whether two files put voxels at the same places, up to a thousandth of a voxel, where both say it."""
    if first.affine is None or second.affine is None or first.unit != second.unit:
        return True
    one, other = first.affine[:3] * first.signs[:, None], second.affine[:3] * second.signs[:, None]
    return bool(np.allclose(one, other, rtol=0, atol=1e-3 * np.abs(one[:, :3]).max()))


def _by(shape: Iterable[int]) -> str:
    return " x ".join(str(size) for size in shape)


def _on_grid(path: Path | str, volumes: FileVolumes, what: str) -> np.ndarray:
    image = open_image(path)
    if image.image_axis is not None or len(image.shape) != 3:
        raise BadInput(f"{path} has shape {image.shape}; a {what} is one image with three axes")
    if tuple(image.shape) != volumes.grid.shape:
        raise BadInput(
            f"the {what} {path} has {_by(image.shape)} voxels but the genes have {_by(volumes.grid.shape)}; "
            "resample it onto their grid"
        )
    if not _same_place(volumes.first, image):
        raise BadInput(f"the {what} {path} and the genes lie at different places; register them first")
    return image.read(None)


def read_mask(path: Path | str, volumes: FileVolumes) -> np.ndarray:
    """Read which voxels are tissue: those above zero; NaN is outside.

    Returns
    -------
    numpy.ndarray
        bool, shape ``volumes.grid.shape``.

    Raises
    ------
    BadInput
        It lies on another grid, or is empty.
    """
    values = _on_grid(path, volumes, "mask")
    inside = np.nan_to_num(values.astype(np.float64), nan=0.0) > 0
    if not inside.any():
        raise BadInput(f"the mask {path} is empty; voxels above zero are inside")
    return inside


def read_annotation(path: Path | str, volumes: FileVolumes) -> np.ndarray:
    """Read the region of each voxel, 0 where there is none.

    Returns
    -------
    numpy.ndarray
        int64, shape ``volumes.grid.shape``; NaN and negative values count as 0.

    Raises
    ------
    BadInput
        It lies on another grid, has values that are not whole, or has no region at all.
    """
    values = _on_grid(path, volumes, "annotation")
    if values.dtype.kind == "f":
        values = np.nan_to_num(values.astype(np.float64), nan=0.0)
        if (values != np.rint(values)).any():
            raise BadInput(f"the annotation {path} has values that are no whole numbers; give region numbers")
    regions = np.maximum(values.astype(np.int64), 0)
    if not regions.any():
        raise BadInput(f"the annotation {path} is empty; voxels of a region have its number")
    return regions


def read_gene_names(path: Path | str) -> list[str]:
    """Read names of genes, one a line (the first column of a table without a head).

    Raises
    ------
    BadInput
        No such file, or no name in it.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no file of gene names {path}; give one with a name per line")
    lines = path.read_text(encoding="utf-8").splitlines()
    names = [line.split("\t")[0].split(",")[0].strip() for line in lines if line.strip()]
    if not names:
        raise BadInput(f"{path} has no gene names; write one per line")
    return names
