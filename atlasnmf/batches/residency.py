"""Where the rows are kept while a model trains: on the device, in host memory, or on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from atlasnmf.batches.samplers import BlockSampler, TileSampler
from atlasnmf.budget import format_bytes
from atlasnmf.errors import BadOption
from atlasnmf.tiles.plan import expected_halo

__all__ = ["Residency", "ResidencyChoice", "Rows", "choose_residency", "planned_bytes"]

Residency = Literal["device", "host", "disk"]

#: A read decompresses whole chunks and gathers from them before rows are dealt out.
_READ_SCRATCH_BYTES = 64 * 10**6
#: Free device memory that rows may take; the rest is the model's.
_DEVICE_SHARE = 0.5


@dataclass(frozen=True)
class ResidencyChoice:
    """Where the rows will be, why, and what that takes.

    Parameters
    ----------
    residency
        ``device``, ``host`` or ``disk``.
    reason
        One line for people.
    host_bytes, device_bytes
        Planned memory of the loader.
    """

    residency: Residency
    reason: str
    host_bytes: int
    device_bytes: int = 0


class Rows(Protocol):
    """What the memory of a loader depends on: the rows of a working copy, or a plan of them."""

    @property
    def n_spots(self) -> int:
        """Rows of all slices."""
        ...

    @property
    def row_bytes(self) -> float:
        """Mean bytes of a row, its neighbours apart."""
        ...

    @property
    def graph_row_bytes(self) -> float:
        """Mean bytes of the neighbours of a row; 0 without a graph."""
        ...

    @property
    def degree(self) -> float:
        """Mean neighbours of a row; 1 without a graph."""
        ...

    @property
    def smoothed(self) -> Sized:
        """The matrices of neighbourhood sums."""
        ...


def planned_bytes(
    source: Rows, sampler: BlockSampler | TileSampler, *, prefetch: int = 2, hops: int = 0
) -> dict[Residency, int]:
    """Plan the memory of a loader for each residency.

    Parameters
    ----------
    source
        Where the rows are.
    sampler
        Which rows a step takes.
    prefetch
        Units kept ready.
    hops
        Rings around a tile.

    Returns
    -------
    dict
        Bytes: host memory for ``host`` and ``disk``, device memory for ``device``.

    Notes
    -----
    Host and device hold every row once; disk holds one block per slice (with :class:`BlockSampler`), and in
    4 bytes a row and matrix where each row starts. All hold the units that are ready and the one in use.
    """
    if isinstance(sampler, BlockSampler):
        unit_rows = float(sampler.batch_rows.sum()) / sampler.n_ranks
        per_slice = (sampler.offsets[1:] - sampler.offsets[:-1]).clip(max=sampler.buffer_rows * 1.5)
        buffer_rows = 1.25 * float(per_slice.sum()) / sampler.n_ranks
    else:
        largest = [max(tile.stop - tile.start for tile in own) for own in sampler.tiles]
        cores = [-(-n_rows // sampler.n_ranks) for n_rows in largest]
        unit_rows = float(sum(expected_halo(core, hops, mean_degree=source.degree) for core in cores))
        buffer_rows = 0.0
    unit_bytes = unit_rows * (source.row_bytes + (source.graph_row_bytes if hops else 0.0))
    queue = (prefetch + 2) * unit_bytes
    n_matrices = 1 + len(source.smoothed) + bool(source.graph_row_bytes)
    held = source.n_spots * (source.row_bytes + source.graph_row_bytes)
    starts = 4 * n_matrices * source.n_spots
    return {
        "device": int(held + queue),
        "host": int(held + queue + _READ_SCRATCH_BYTES),
        "disk": int(buffer_rows * source.row_bytes + starts + queue + _READ_SCRATCH_BYTES),
    }


def choose_residency(
    planned: Mapping[Residency, int],
    *,
    budget_bytes: int | None,
    device_bytes: int = 0,
    wanted: str = "auto",
) -> ResidencyChoice:
    """Choose the fastest place that fits; batches are the same whichever.

    Parameters
    ----------
    planned
        From :func:`planned_bytes`.
    budget_bytes
        Host memory the loader may hold; None does not limit it.
    device_bytes
        Free memory of the device, 0 where the model runs on the CPU.
    wanted
        ``auto``, or the place the user asks for.

    Raises
    ------
    BadOption
        The place asked for does not fit, or not even the smallest does.

    Examples
    --------
    >>> sizes = {"device": 3_000_000_000, "host": 3_100_000_000, "disk": 200_000_000}
    >>> choose_residency(sizes, budget_bytes=1_000_000_000).reason
    'streaming from disk (200.0 MB): all rows need 3.1 GB and the loader may hold 1.0 GB'
    """
    if wanted not in ("auto", *get_args(Residency)):
        raise BadOption(f"residency must be auto, device, host or disk, got {wanted!r}")
    limit = float("inf") if budget_bytes is None else budget_bytes
    room = "as much as there is" if budget_bytes is None else format_bytes(limit)
    device_room = _DEVICE_SHARE * device_bytes
    device, host, disk = (planned[place] for place in get_args(Residency))
    staging = min(disk, host)
    if wanted == "device" or (wanted == "auto" and device <= device_room):
        if not device_bytes:
            raise BadOption("residency device needs a device; use --device cuda or residency host")
        if device > device_room:
            raise BadOption(
                f"all rows on the device need {format_bytes(device)} and half of its free memory is "
                f"{format_bytes(device_room)}; use residency auto, host or disk"
            )
        reason = f"rows on the device ({format_bytes(device)} of {format_bytes(device_bytes)} free)"
        return ResidencyChoice("device", reason, staging, device)
    if wanted == "host" or (wanted == "auto" and host <= limit):
        if host > limit:
            raise BadOption(
                f"all rows in memory need {format_bytes(host)} and the loader may hold {room}; "
                f"use residency auto or disk, or a larger --memory-budget"
            )
        return ResidencyChoice("host", f"rows in memory ({format_bytes(host)} of {room})", host)
    if disk > limit:
        raise BadOption(
            f"streaming batches from disk needs {format_bytes(disk)} and the loader may hold {room}; "
            f"use fewer rows a step or a larger --memory-budget"
        )
    reason = f"streaming from disk ({format_bytes(disk)})"
    if wanted == "auto":
        reason += f": all rows need {format_bytes(host)} and the loader may hold {room}"
    return ResidencyChoice("disk", reason, disk)
