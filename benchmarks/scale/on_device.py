"""Everything that wants a GPU, in one command and within a time limit: what a borrowed half hour is for.

usage: python benchmarks/scale/on_device.py OUT [--minutes 28] [--only tests,steps] [--small]

One after the other, each in a process of its own that ends with its share of the time:

tests    ``python -m pytest -m gpu``: every test that has a side for devices
steps    ``device_step.py``: training steps by where rows are, and what each precision costs
passes   ``device_passes.py``: staNMF and SIID against the processor
inspire  ``inspire_h200.py``: the published size, from the store to the store; wants the packages of stores

In the folder OUT: for each ``<name>.jsonl`` (``tests.txt``), what it printed, written while it runs; and
``summary.json``, how it ended, how long it took and the last lines of what it complained of. What lacks a
package is skipped, and the package named. Ends with 1 where anything failed. Without a device it refuses;
``--small`` rehearses on the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from processes import machine

ROOT = Path(__file__).parents[2]
SCALE = Path("benchmarks", "scale")
#: Packages without which no store is read.
STORES = ("anndata", "dask", "spatialdata", "zarr")
TAIL = 30
#: Seconds that a process has to end by itself when its time is over.
GRACE_S = 10


@dataclass(frozen=True)
class Job:
    """A command, its small form for a processor, and its share of the time that is left when it begins."""

    command: tuple[str, ...]
    small: tuple[str, ...]
    share: float
    needs: tuple[str, ...]
    prints: str = "jsonl"


JOBS = {
    "tests": Job(
        ("-m", "pytest", "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider"),
        ("tests/kernels",),
        0.4,
        ("pytest",),
        prints="txt",
    ),
    "steps": Job(
        (str(SCALE / "device_step.py"),),
        (
            "--spots=3000",
            "--genes=300",
            "--nnz=60",
            "--rows=128",
            "--steps=12",
            "--seeds=1",
            "--preset=default",
        ),
        0.4,
        ("torch", "numba", "pydantic"),
    ),
    "passes": Job(
        (str(SCALE / "device_passes.py"),),
        (
            *("--device=cpu", "--spots=3000", "--genes=200", "--nnz=40", "--factors=5", "--cells=2000"),
            *("--panel=60", "--passes=3"),
        ),
        0.5,
        ("torch", "numba", "pydantic"),
    ),
    "inspire": Job(
        (str(SCALE / "inspire_h200.py"),),
        (
            *(
                "--spots=2000",
                "--genes=200",
                "--slices=2",
                "--factors=6",
                "--steps=6",
                "--rows=64",
                "--apart=2",
            ),
            "--device=cpu",
        ),
        1.0,
        ("torch", "numba", "pydantic", *STORES),
    ),
}


def run(job: Job, limit_s: float, out: Path, small: bool) -> dict[str, Any]:
    """Run a command to its end or its limit; what it prints is kept either way."""
    missing = [name for name in job.needs if find_spec(name) is None]
    if missing:
        return {"ended": "skipped", "missing": missing}
    command = [sys.executable, *job.command, *(job.small if small else ())]
    start, complaints = time.perf_counter(), out.with_suffix(".err")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with out.open("w") as printed, complaints.open("w") as complained:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=printed, stderr=complained, start_new_session=True
        )
        try:
            process.wait(limit_s)
            over = False
        except subprocess.TimeoutExpired:
            over = True
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    said = complaints.read_text().splitlines()[-TAIL:]
    complaints.unlink()
    return {
        "ended": "out of time" if over else "done" if process.returncode == 0 else "failed",
        "exit_code": process.returncode,
        "seconds": round(time.perf_counter() - start, 1),
        "last_line": (out.read_text().strip().splitlines() or [""])[-1][:300],
        "complaints": said,
    }


def device() -> str | None:
    """Name the device, as torch knows it, or as CuPy does; None where there is none."""
    try:
        import torch

        if torch.cuda.is_available():
            return str(torch.cuda.get_device_name())
    except ImportError:
        pass
    from atlasnmf.kernels.dispatch import gpu_available

    return "a device that CuPy sees and torch does not" if gpu_available() else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=28.0)
    parser.add_argument("--only", default=",".join(JOBS), help="some of " + ", ".join(JOBS))
    parser.add_argument("--small", action="store_true", help="small sizes on the processor: a rehearsal")
    args = parser.parse_args()
    unknown = [name for name in args.only.split(",") if name not in JOBS]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}; choose from {', '.join(JOBS)}")
    sys.path.insert(0, str(ROOT))
    name = device()
    if name is None and not args.small:
        raise SystemExit("error: no CUDA device is visible; rehearse on the processor with --small")
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    summary: dict[str, Any] = {"machine": machine(), "device": name, "small": args.small, "jobs": {}}
    for job_name in args.only.split(","):
        job, left = JOBS[job_name], end - time.monotonic()
        record = {"ended": "no time left"}
        if left > GRACE_S:
            record = run(
                job, max(job.share * left - GRACE_S, 1.0), args.out / f"{job_name}.{job.prints}", args.small
            )
        summary["jobs"][job_name] = record
        # written after each: what is known is kept if the machine goes away
        (args.out / "summary.json").write_text(json.dumps(summary, indent=1))
        print(job_name, record["ended"], record.get("seconds", ""), record.get("last_line", ""), flush=True)
    ended = {record["ended"] for record in summary["jobs"].values()}
    raise SystemExit(1 if ended & {"failed", "out of time", "no time left"} else 0)


if __name__ == "__main__":
    main()
