"""Voxel grids and the image files they come in: NIfTI, NRRD and zarr, read one image at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from atlasnmf.errors import BadInput, BadOption
from atlasnmf.store.names import natural_key

__all__ = ["Grid", "ImageFile", "is_image", "open_image", "stem_of"]

_UNITS = {
    "micrometre": ("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre"),
    "millimetre": ("mm", "millimeter", "millimeters", "millimetre"),
    "metre": ("m", "meter", "meters", "metre"),
    "nanometre": ("nm", "nanometer", "nanometers", "nanometre"),
    "voxel": ("voxel", "voxels"),
}
_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".zarr")


@dataclass(frozen=True)
class Grid:
    """Where voxels lie.

    Parameters
    ----------
    shape
        Voxels along the three axes.
    affine
        Takes (i, j, k, 1) to the position of a voxel's centre, float64, shape (4, 4).
    unit
        Of positions.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    unit: str

    def positions(self, voxels: np.ndarray) -> np.ndarray:
        """Return the centres of voxels given by their indices, float64, shape (n, 3)."""
        return np.asarray(voxels, np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def lattice(self, voxels: np.ndarray) -> np.ndarray:
        """Return positions up to rotation, in units of the shortest step between voxels, float64, (n, 3).

        On a grid many voxels are equally far; here they are so exactly, whatever rounding the affine has
        been through, and which ones are nearest does not hang on the format of a file.
        """
        steps = np.linalg.norm(self.affine[:3, :3], axis=0)
        unit = self.affine[:3, :3] / steps
        orthogonal = np.allclose(unit.T @ unit, np.eye(3), atol=1e-4)
        shape = np.diag(steps) if orthogonal else self.affine[:3, :3]
        return np.asarray(voxels, np.float64) @ np.round(shape / steps.min(), 4).T

    def respaced(self, spacing: tuple[float, ...] | None, unit: str | None) -> Grid:
        """Return the grid with other distances between voxels (the origin at voxel 0, 0, 0), another unit.

        Raises
        ------
        BadOption
            Not one or three positive distances.
        """
        if spacing is None:
            return self if unit is None else replace(self, unit=unit_name(unit))
        if len(spacing) not in (1, 3) or not all(0 < step < np.inf for step in spacing):
            raise BadOption(
                f"spacing {spacing} is not one or three positive distances; write 200 or 10,10,25"
            )
        steps = spacing * 3 if len(spacing) == 1 else spacing
        return Grid(self.shape, np.diag([*steps, 1.0]), unit_name(unit or self.unit))


def unit_name(text: str | None) -> str:
    """Return the full name of a unit of length, and any other as it is.

    Examples
    --------
    >>> unit_name("um"), unit_name("mm"), unit_name("")
    ('micrometre', 'millimetre', 'unknown')
    """
    plain = str(text or "").strip().strip('"').lower()
    for name, spellings in _UNITS.items():
        if plain in spellings:
            return name
    return plain or "unknown"


class ImageFile(Protocol):
    """One 3-D image, or several of one grid along another axis."""

    path: Path
    #: Of the stored array, or of one image when the file keeps them apart.
    shape: tuple[int, ...]
    affine: np.ndarray | None
    #: What turns the file's axes of space to the right, to the front and up; shape (3,).
    signs: np.ndarray
    unit: str
    #: Names of the images where the file has them.
    names: tuple[str, ...] | None
    #: The axis along which images lie when nothing else tells; None for 3-D files.
    image_axis: int | None

    def read(self, index: int | None) -> np.ndarray:
        """Return one image; None for the only one."""
        ...


def is_image(path: Path) -> bool:
    """Tell an image file from other inputs by its name, and a zarr image from a SpatialData store."""
    if path.name.lower().endswith(".zarr"):
        return path.is_dir() and not (path / "tables").is_dir()
    return path.name.lower().endswith(_SUFFIXES)


def stem_of(path: Path) -> str:
    """Return a file's name without the ending of its format."""
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def open_image(path: Path | str) -> ImageFile:
    """Open an image file; only its header is read.

    Raises
    ------
    BadInput
        No such file, no such format, the file is damaged, or it has other than three or four axes.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"there is no image {path}; check the path")
    name = path.name.lower()
    kind: Any = (
        _Nifti
        if name.endswith((".nii", ".nii.gz"))
        else _Nrrd
        if name.endswith((".nrrd", ".nhdr"))
        else _Zarr
        if name.endswith(".zarr")
        else None
    )
    if kind is None:
        raise BadInput(f"{path} is no image this program reads; give NIfTI (.nii, .nii.gz), NRRD or zarr")
    try:
        image: ImageFile = kind(path)
    except ModuleNotFoundError as error:
        raise BadOption(
            f"reading {path.name} needs {error.name}; install it: pip install atlasnmf[volumes]"
        ) from None
    except BadInput:
        raise
    except Exception as error:  # each reader has its own ways to say that a file is damaged
        raise BadInput(f"{path} cannot be read ({error}); check the file") from None
    if len(image.shape) not in (3, 4):
        raise BadInput(f"{path} has shape {image.shape}; an image has three axes, or four with the genes'")
    return image


def _where(index: int, axis: int | None) -> tuple[Any, ...]:
    """Return what takes one image out of an array with four axes."""
    return tuple(index if a == axis else slice(None) for a in range(4))


class _Nifti:
    def __init__(self, path: Path) -> None:
        import nibabel

        self.path = path
        self._image = cast(Any, nibabel.load(path, mmap=False))  # type: ignore[call-arg]
        if len(self._image.shape) > 3:
            # kept open, a compressed file is read on from where the last image ended
            self._image = cast(Any, nibabel.load(path, keep_file_open=True))  # type: ignore[call-arg]
        shape = tuple(int(size) for size in self._image.shape)
        self.shape = shape[:3] + shape[4:] if len(shape) == 5 and shape[3] == 1 else shape
        self._five = len(shape) == 5
        self.affine: np.ndarray | None = np.asarray(self._image.affine, np.float64)
        self.signs = np.ones(3)
        self.unit = unit_name(self._image.header.get_xyzt_units()[0])
        self.names: tuple[str, ...] | None = None
        self.image_axis = 3 if len(self.shape) == 4 else None

    def read(self, index: int | None) -> np.ndarray:
        if index is None:
            return np.asarray(self._image.dataobj)
        if self._five:
            return np.asarray(self._image.dataobj[..., 0, index])
        return np.asarray(self._image.dataobj[_where(index, self.image_axis)])


class _Nrrd:
    """An NRRD file; one with four axes is read whole at its first image, as it is compressed whole."""

    def __init__(self, path: Path) -> None:
        import nrrd

        self.path = path
        header: Any = nrrd.read_header(str(path))
        self.shape = tuple(int(size) for size in header["sizes"])
        directions = header.get("space directions")
        missing = (
            []
            if directions is None
            else [
                axis
                for axis, step in enumerate(directions)
                if step is None or not np.isfinite(np.asarray(step, float)).all()
            ]
        )
        self.image_axis = (missing[0] if missing else 3) if len(self.shape) == 4 else None
        self.affine = _nrrd_affine(header, directions, self.image_axis, len(self.shape))
        self.signs = _nrrd_signs(str(header.get("space", "")))
        units = header.get("space units") or header.get("units") or [""]
        self.unit = unit_name(next((str(unit) for unit in units if str(unit).strip()), ""))
        self.names = None
        self._data: np.ndarray | None = None

    def read(self, index: int | None) -> np.ndarray:
        import nrrd

        if index is None:
            return nrrd.read(str(self.path))[0]
        if self._data is None:
            self._data = nrrd.read(str(self.path))[0]
        return np.take(self._data, index, axis=self.image_axis)


def _nrrd_affine(header: Any, directions: Any, image_axis: int | None, n_axes: int) -> np.ndarray | None:
    space = [axis for axis in range(n_axes) if axis != image_axis]
    affine = np.eye(4)
    if directions is not None:
        # a row of the directions is the step along one axis of the array
        affine[:3, :3] = np.stack([np.asarray(directions[axis], np.float64) for axis in space]).T
    elif header.get("spacings") is not None:
        affine[:3, :3] = np.diag([float(header["spacings"][axis]) for axis in space])
    else:
        return None
    if header.get("space origin") is not None:
        affine[:3, 3] = np.asarray(header["space origin"], np.float64)
    return affine if np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]) != 0 else None


def _nrrd_signs(space: str) -> np.ndarray:
    """Return the signs of axes such as left-posterior-superior; ones where the space has no such name."""
    words = space.lower().split("-") if "-" in space else list(space.lower())
    ends = ("left", "right", "posterior", "anterior", "inferior", "superior")
    places = [next((i for i, end in enumerate(ends) if word in (end, end[0])), -1) for word in words[:3]]
    if len(places) != 3 or min(places) < 0:
        return np.ones(3)
    return np.array([1.0 if place % 2 else -1.0 for place in places])


class _Zarr:
    """A zarr array of three or four axes, an OME-Zarr image (its finest level), or a group of 3-D arrays."""

    def __init__(self, path: Path) -> None:
        import zarr

        self.path = path
        node: Any = zarr.open(str(path), mode="r")
        self.affine: np.ndarray | None = None
        self.signs = np.ones(3)
        self.unit, self.names, self._members = "unknown", None, None
        if hasattr(node, "shape"):
            self._array: Any = node
            attributes = dict(node.attrs)
        else:
            attributes = dict(node.attrs)
            scales = attributes.get("ome", attributes).get("multiscales")
            if scales:
                self._array = node[scales[0]["datasets"][0]["path"]]
                self._scale(scales[0])
            else:
                self._open_group(node, path)
        self.shape = tuple(int(size) for size in self._array.shape)
        self.image_axis = 0 if len(self.shape) == 4 or self._members else None
        if attributes.get("genes") is not None and self.names is None:
            self.names = tuple(str(name) for name in attributes["genes"])
        if attributes.get("spacing") is not None:
            steps = np.broadcast_to(np.asarray(attributes["spacing"], np.float64), 3)
            self.affine = np.diag([*steps, 1.0])
        if attributes.get("unit") is not None:
            self.unit = unit_name(attributes["unit"])

    def _open_group(self, node: Any, path: Path) -> None:
        names = sorted((str(name) for name, _ in node.arrays()), key=natural_key)
        if not names:
            raise BadInput(f"{path} has no arrays; an image is an array of three or four axes")
        shapes = {tuple(node[name].shape) for name in names}
        if len(shapes) > 1 or len(next(iter(shapes))) != 3:
            raise BadInput(f"the arrays of {path} are not all of one shape with three axes; mend the file")
        self.names = tuple(names)
        self._members = node
        self._array = node[names[0]]

    def _scale(self, multiscale: Any) -> None:
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in multiscale.get("axes", [])]
        steps = multiscale["datasets"][0].get("coordinateTransformations", [])
        scale = next((step["scale"] for step in steps if step.get("type") == "scale"), None)
        if scale is not None:
            self.affine = np.diag([*[float(step) for step in scale[-3:]], 1.0])
        units = [axis.get("unit") for axis in axes if axis.get("unit")]
        self.unit = unit_name(units[-1] if units else "")

    def read(self, index: int | None) -> np.ndarray:
        if self._members is not None and index is not None:
            assert self.names is not None
            return np.asarray(self._members[self.names[index]][...])
        if index is None:
            return np.asarray(self._array[...])
        return np.asarray(self._array[_where(index, self.image_axis)])
