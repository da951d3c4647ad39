"""Read the rows a sampler chose, ahead of the step that needs them; choose nothing."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from atlasnmf.batches.blocks import buffered_units
from atlasnmf.batches.halos import halo_batch, spots_with_halo
from atlasnmf.batches.prefetch import WaitClock, prefetched
from atlasnmf.batches.residency import ResidencyChoice, choose_residency, planned_bytes
from atlasnmf.batches.samplers import BlockSampler, TileSampler, spread_rows
from atlasnmf.batches.sources import SpotSource
from atlasnmf.events import SILENT, Events
from atlasnmf.schema import SliceBatch
from atlasnmf.tiles.plan import Tile

__all__ = ["Loader"]

Unit = list[SliceBatch]


class Loader:
    """Units of training and batches of inference from one source.

    A unit is one batch of every slice. The same units come out whichever the residency, and the unit of a
    step does not depend on where reading started. Wherever the rows are, a thread keeps the next units ready.

    Parameters
    ----------
    source
        Where the rows are.
    sampler
        Which rows a step takes: shuffled blocks, or tiles.
    residency
        ``device``, ``host``, ``disk``, or ``auto`` for the first of them that fits.
    budget_bytes
        Host memory the loader may hold, its units included; None does not limit it.
    device
        Where the model computes, as torch writes it.
    takes_tensors
        The model understands batches that hold tensors of the device in place of arrays, except for ``rows``
        and ``graph``. Only then are rows kept on the device, or sent there ahead; for other models, and on
        the CPU, residency ``device`` means ``host``.
    hops
        Rings of neighbours around a tile.
    prefetch
        Units kept ready; 0 reads in the calling thread.
    events
        Told which residency was chosen and why.

    Raises
    ------
    BadOption
        The residency asked for does not fit the budget, or none does.
    """

    def __init__(
        self,
        source: SpotSource,
        sampler: BlockSampler | TileSampler,
        *,
        residency: str = "auto",
        budget_bytes: int | None = None,
        device: str = "cpu",
        takes_tensors: bool = False,
        hops: int = 0,
        prefetch: int = 2,
        events: Events = SILENT,
    ) -> None:
        if hops and isinstance(sampler, BlockSampler):
            raise ValueError("blocks of random spots have no halo; use a TileSampler")
        if hops and (source.graph is None or source.degrees is None):
            raise ValueError("tiles with a halo need the graph and the degrees")
        self.sampler, self.device, self.hops, self.prefetch = sampler, device, hops, prefetch
        device_bytes = _free_bytes(device) if takes_tensors else 0
        self.choice: ResidencyChoice = choose_residency(
            planned_bytes(source, sampler, prefetch=prefetch, hops=hops),
            budget_bytes=budget_bytes,
            device_bytes=device_bytes,
            wanted="host" if residency == "device" and not device_bytes else residency,
        )
        events.note(self.choice.reason)
        #: Rows that stay on the host are sent ahead to a device that can take them.
        self.sends = takes_tensors and device.startswith("cuda") and self.choice.residency != "device"
        #: What the training loop waited for, over all calls of :meth:`starting_at`.
        self.clock = WaitClock()
        self._source, self._ready = source, False
        #: The rows where they were found, which other processes can open too.
        self.stored = source
        self._events = events

    @property
    def wait_share(self) -> float:
        """Share of the training loop's time spent waiting for units, the first one apart."""
        return self.clock.share

    @property
    def source(self) -> SpotSource:
        """The rows at the chosen place, brought there when first asked for."""
        if not self._ready:
            place = self.choice.residency
            if place == "host":
                self._source = self._source.held()
            elif place == "device":
                from atlasnmf.batches.device import on_device

                self._source = on_device(self._source, self.device)
            self._ready = True
        return self._source

    def starting_at(self, step: int) -> Generator[Unit, None, None]:
        """Return the units from ``step`` on, without end; close it, or drop it, to end the thread."""
        source = self.source
        if self.choice.residency == "disk" and isinstance(self.sampler, BlockSampler):
            units: Iterator[Unit] = buffered_units(source, self.sampler, step)
        else:
            units = self._units(source, step)
        if isinstance(self.sampler, BlockSampler) and self.sampler.n_ranks > 1:
            units = _shared(units, self.sampler, step)
        if self.sends:
            from atlasnmf.batches.device import Sender

            units = map(Sender(self.device).send, units)
        return prefetched(units, self.prefetch, self.clock)

    def sample(self, rows_per_slice: int, seed: int) -> Unit:
        """Read spots spread evenly over every slice: what a model looks at before its first step.

        With ``hops`` the spots come with their neighbours, as tiles do.

        Parameters
        ----------
        rows_per_slice
            About how many spots of a slice; smaller slices give all.
        seed
            The user's seed.
        """
        source = self.source
        chosen = spread_rows(source.offsets, rows_per_slice, seed=seed)
        if self.hops:
            return [spots_with_halo(source, s, rows, self.hops) for s, rows in enumerate(chosen)]
        return [source.batch(s, source.read_rows(rows)) for s, rows in enumerate(chosen)]

    def tiles(self, tiles: Iterable[Tile]) -> Generator[SliceBatch, None, None]:
        """Read tiles in the order given, with their halo: what inference goes through.

        Parameters
        ----------
        tiles
            From :func:`atlasnmf.tiles.plan.plan_tiles`.
        """
        source = self.source
        batches = (halo_batch(source, tile.slice_index, tile.start, tile.stop, self.hops) for tile in tiles)
        return prefetched(batches, self.prefetch)

    def _units(self, source: SpotSource, step: int) -> Iterator[Unit]:
        before: dict[Tile, SliceBatch] = {}
        while True:
            if isinstance(self.sampler, BlockSampler):
                drawn = self.sampler.draw(step)
                yield [source.batch(s, source.read_rows(rows)) for s, rows in enumerate(drawn)]
            else:
                # a slice that is one tile comes whole in every step: it is read once
                parts = zip(self.sampler.draw(step), self.sampler.whole(step), strict=True)
                before = {tile: before.get(tile) or self._part(source, tile, whole) for tile, whole in parts}
                yield list(before.values())
            step += 1

    def _part(self, source: SpotSource, tile: Tile, whole: Tile) -> SliceBatch:
        """Read a rank's part of a tile; it knows which rows all ranks have."""
        batch = halo_batch(source, tile.slice_index, tile.start, tile.stop, self.hops)
        if self.sampler.n_ranks == 1:
            return batch
        return replace(batch, n_shared=whole.n_spots, shared_start=whole.start)

    def first_unit(self, step: int = 0) -> Unit:
        """Return one unit without leaving a thread behind; for tests and for planning."""
        with closing(self.starting_at(step)) as units:
            return next(units)


def _shared(units: Iterator[Unit], sampler: BlockSampler, step: int) -> Iterator[Unit]:
    """Tell every batch how many rows all ranks have of its slice."""
    for at, unit in enumerate(units, step):
        rows = sampler.step_rows(at)
        yield [replace(batch, n_shared=n_rows) for batch, n_rows in zip(unit, rows, strict=True)]


def _free_bytes(device: str) -> int:
    if not device.startswith("cuda"):
        return 0
    import torch

    return int(torch.cuda.mem_get_info(device)[0])
