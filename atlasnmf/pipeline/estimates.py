"""Memory, disk and time of a fit before anything runs."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atlasnmf import models
from atlasnmf.budget import INTERPRETER_BYTES, format_bytes
from atlasnmf.kernels.dispatch import gpu_available
from atlasnmf.pipeline.limits import WORTH_SENDING, Limits
from atlasnmf.pipeline.request import FitRequest
from atlasnmf.pipeline.sizes import VECTOR_BYTES, Sizes, settled_to

if TYPE_CHECKING:
    from atlasnmf.store.atlas import Atlas

__all__ = ["Estimate", "estimate_fit"]

# Measured on two 2.8 GHz cores with benchmarks/scale; scaled to this machine by a short matrix product.
_REFERENCE_GFLOPS = 45.0
_PREPARE_SPOTS_PER_S = 25_000.0
#: Compressed bytes of a stored count, of a stored neighbourhood sum, and of one score.
_COUNT_BYTES, _SMOOTHED_BYTES, _SCORE_BYTES = 2.0, 4.5, 3.7


@dataclass(frozen=True)
class Estimate:
    """What a fit will need.

    Parameters
    ----------
    request
        The fit.
    n_spots, n_slices, n_genes
        Size of the atlas; genes are those the model will see at most.
    memory_bytes
        Peak of the process: interpreter, per-spot vectors, batches, model.
    disk_bytes, free_disk_bytes
        Working copy, and what is free where it will lie.
    prepare_s, fit_s
        Rough times on this machine.
    notes
        What to look at before starting.
    """

    request: FitRequest
    n_spots: int
    n_slices: int
    n_genes: int
    memory_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    prepare_s: float
    fit_s: float
    notes: tuple[str, ...] = field(default=())

    def record(self) -> dict[str, Any]:
        """Return the estimate for scripts."""
        return {
            "model": self.request.model,
            "store": self.request.store,
            "n_spots": self.n_spots,
            "n_slices": self.n_slices,
            "n_genes": self.n_genes,
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
            "free_disk_bytes": self.free_disk_bytes,
            "prepare_s": round(self.prepare_s, 1),
            "fit_s": round(self.fit_s, 1),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """Return the estimate for people."""
        slices = "1 slice" if self.n_slices == 1 else f"{self.n_slices} slices"
        return [
            f"{self.request.model} on {self.request.store}: {self.n_spots:,} spots, {slices}, "
            f"up to {self.n_genes:,} genes",
            f"  memory  {format_bytes(self.memory_bytes)}",
            f"  disk    {format_bytes(self.disk_bytes)} ({format_bytes(self.free_disk_bytes)} free)",
            f"  time    about {_duration(self.prepare_s)} to prepare, {_duration(self.fit_s)} to fit",
            *(f"  note    {note}" for note in self.notes),
        ]


def estimate_fit(atlas: Atlas, request: FitRequest) -> Estimate:
    """Estimate a fit from sizes alone; nothing is read but metadata.

    Raises
    ------
    BadInput, BadOption
        What the fit itself would refuse without reading counts.
    """
    limits = Limits.of(request.run)
    request, reason = settled_to(atlas, request, limits)
    params: Any = request.params
    sizes = Sizes.of(atlas, request)
    settled, n_spots, nnz = sizes.settled, sizes.n_spots, sizes.nnz
    n_scores = settled.n_components * (settled.component_hops + 1)
    disk = n_spots * (
        nnz * _COUNT_BYTES + sizes.smoothed_nnz * _SMOOTHED_BYTES + n_scores * _SCORE_BYTES + 30
    )
    step, room = sizes.step_bytes(sizes.batch_spots), limits.budget.array_bytes / 2
    if not sizes.batch_spots:
        # a model that goes over all spots leaves its rows half of the rest, or a little
        room = max((limits.budget.array_bytes - step) / 2, limits.budget.array_bytes / 8)
    held = min(n_spots * sizes.row_bytes, room)
    memory = INTERPRETER_BYTES + n_spots * VECTOR_BYTES + held + step
    # no less than the fit asks for
    memory = max(memory, INTERPRETER_BYTES + sizes.needed_bytes(sizes.batch_spots))
    width = 2 * sizes.n_genes if settled.hops else n_scores
    speed = _gflops()
    flops = models.fit_flops(request.model, params, n_spots=n_spots, n_genes=sizes.n_genes, nnz=nnz)
    if flops is None:
        flops_per_row = 6 * 512 * (width + 64) + 12 * nnz * getattr(params, "hidden", 512) / 10
        flops = getattr(params, "steps", 0) * sizes.rows_of(sizes.batch_spots) * flops_per_row
    notes = [] if reason is None else [reason]
    if memory > limits.budget.total_bytes:
        notes.append(
            f"more than the budget of {format_bytes(limits.budget.total_bytes)}; "
            f"{models.mend(request.model) or 'lower --batch-spots'} or raise --memory-budget"
        )
    if not sizes.batch_spots:
        notes += _of_passes(request, limits)
    n_ranks = _ranks(request)
    if n_ranks > 1:
        notes.append(f"{n_ranks} workers share a step; each holds {format_bytes(sizes.rank_bytes(n_ranks))}")
    free = shutil.disk_usage(_existing(atlas, request)).free
    if disk > free:
        notes.append("the disk is too small; name another place with --work-dir")
    return Estimate(
        request,
        n_spots,
        atlas.n_slices,
        sizes.n_genes,
        int(memory),
        int(disk),
        free,
        prepare_s=n_spots / _PREPARE_SPOTS_PER_S * _REFERENCE_GFLOPS / speed,
        fit_s=flops / (0.5e9 * speed),
        notes=tuple(notes),
    )


def _of_passes(request: FitRequest, limits: Limits) -> list[str]:
    """Say where passes over all spots would be made, if there are workers."""
    n_threads, run = limits.n_workers, request.run
    if run.device != "cpu" and gpu_available():
        return []  # theirs are the devices
    if run.scheduler is not None:
        least = WORTH_SENDING * n_threads
        return [f"passes go to the workers if these have {least} threads or more, else they are made here"]
    if n_threads > 1 and run.workers is not None:
        return [f"passes are made in {n_threads} threads of this process; workers prepare only"]
    return []


def _ranks(request: FitRequest) -> int:
    """Return the workers that would share a step, as far as the options tell."""
    if not models.shares_steps(request.model):
        return 1
    run = request.run
    return (run.workers or 1) if run.train_workers is None else run.train_workers


def _existing(atlas: Atlas, request: FitRequest) -> Path:
    place = Path(request.run.work_dir or atlas.path or ".").absolute()
    while not place.exists():
        place = place.parent
    return place


def _gflops() -> float:
    """Time a small matrix product: what this machine gives a training step."""
    matrix = np.ones((512, 512), dtype=np.float32)
    matrix @ matrix
    start = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    return 4 * 2 * 512**3 / (time.perf_counter() - start) / 1e9


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
