"""Draw the curves of scale: processor time a spot and memory by stage, over spots and workers.

usage: python benchmarks/scale/curves.py [--spots 1e5,2e5,5e5,1e6,2e6] [--prepare-only 1e7] [--workers 1,2,4]
           [--genes 1000] [--steps 200] [--models inspire,stanmf] [--out docs/_static/curves] [--docs]

For each size a simulated embryo; for each number of workers it is prepared, then fitted by each model, as the
command line does it. Of ``--prepare-only`` sizes only preparation is timed: its reductions, the survey and
the components, are among its stages. Writes OUT.json (every run), OUT.md (a table) and OUT.svg (the figure),
after every run anew, so that a long command may be cut off; runs that are in OUT.json already are not
repeated. ``--docs`` puts table and figure between the markers of docs/benchmarks.md.

All of it takes some hours on two cores and 60 GB of disk. A small one, of minutes: ``--spots 1e4,3e4,1e5
--prepare-only "" --workers 1,2 --steps 50``.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from processes import atlasnmf, machine, measure

ROOT = Path(__file__).parents[2]
MARKERS = "<!-- curves: from benchmarks/scale/curves.py -->", "<!-- end of curves -->"
FITS = {
    "inspire": ["--n-factors", "20", "--device", "cpu", "--encoder", "lgcn"],
    "stanmf": ["--ranks", "8,12", "--replicates", "5", "--max-iterations", "60", "--device", "cpu"],
}


def watched(command: list[str]) -> tuple[float, float, int, dict[str, Any]]:
    """Run a command; return its seconds by the clock and of processors, the most it held, what it said."""
    start, used, most = time.perf_counter(), processor_s(), 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    whole = psutil.Process(process.pid)
    while process.poll() is None:
        held = 0
        for one in [whole, *_children(whole)]:
            try:
                held += one.memory_info().rss
            except psutil.Error:
                continue
        most = max(most, held)
        time.sleep(0.1)
    out, err = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {err.decode()[-500:]}")
    return time.perf_counter() - start, processor_s() - used, most, json.loads(out)


def processor_s() -> float:
    """Return the processor time of all commands that have ended, and of their workers."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def one_size(args: argparse.Namespace, n_spots: int, models: list[str], done: list[dict[str, Any]]) -> None:
    """Add the runs of one size that are not there yet."""
    wanted = [(n, stage) for n in args.workers for stage in ("prepare", *models)]
    known = {(run["workers"], run["stage"]) for run in done if run["n_spots"] == n_spots}
    if not set(wanted) - known:
        return
    store = args.dir / f"embryo_{n_spots}_{args.genes}.zarr"
    shape = ["--n-spots", str(n_spots), "--n-slices", str(args.slices), "--n-genes", str(args.genes)]
    if not store.exists():
        measure(atlasnmf("simulate", "embryo", str(store), *shape))
    for workers in args.workers:
        if not {(workers, stage) for stage in ("prepare", *models)} - known:
            continue
        shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)
        missing = [stage for stage in models if (workers, stage) not in known]
        for stage in ("prepare", *missing):
            options = ["--workers", str(workers), "--memory-budget", args.budget, "--json"]
            command = ["prepare", str(store)]
            if stage != "prepare":
                command = ["fit", stage, str(store), *FITS[stage], "--overwrite"]
            if stage == "inspire":
                command += ["--steps", str(args.steps)]
            beside = psutil.getloadavg()[0]
            seconds, processor, held, said = watched(atlasnmf(*command, *options))
            if (workers, stage) in known:  # prepared once more for the fits that are missing
                continue
            parts = said.get("stages") or said.get("seconds") or {}
            done.append(
                {
                    "machine": machine(),
                    "n_spots": n_spots,
                    "n_genes": args.genes,
                    "workers": workers,
                    "stage": stage,
                    "wall_s": round(seconds, 2),
                    "processor_s": round(processor, 2),
                    "us_per_spot": round(1e6 * processor / n_spots, 2),
                    "load_before": round(beside, 1),
                    "held_bytes": held,
                    "parts_s": {k: round(v, 2) for k, v in parts.items()} if isinstance(parts, dict) else {},
                }
            )
            print(json.dumps(done[-1]), flush=True)
            write(args.out, done)
    if not args.keep:
        shutil.rmtree(store)
        shutil.rmtree(f"{store}.atlasnmf", ignore_errors=True)


def table(runs: list[dict[str, Any]]) -> str:
    """Return the runs as a table."""
    head = (
        "| spots | workers | stage | clock, s | load before | processor, s | µs a spot | memory | longest |"
    )
    lines = [head, "|---:|---:|---|---:|---:|---:|---:|---:|---|"]
    for run in sorted(runs, key=lambda run: (run["stage"], run["n_spots"], run["workers"])):
        parts = sorted(run["parts_s"].items(), key=lambda part: -part[1])[:3]
        said = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts)
        lines.append(
            f"| {run['n_spots']:,} | {run['workers']} | {run['stage']} | {run['wall_s']:.1f} "
            f"| {run['load_before']:.1f} | {run['processor_s']:.1f} | {run['us_per_spot']:.1f} "
            f"| {run['held_bytes'] / 1e9:.2f} GB | {said} |"
        )
    return "\n".join(lines)


def figure(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw processor time a spot, and memory, over spots: a line a number of workers, a column a stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    stages = sorted({run["stage"] for run in runs})
    drawn, axes = pyplot.subplots(2, len(stages), figsize=(3.2 * len(stages), 5), squeeze=False, sharex=True)
    for column, stage in enumerate(stages):
        for workers in sorted({run["workers"] for run in runs}):
            own = sorted(
                (run["n_spots"], run["us_per_spot"], run["held_bytes"] / 1e9)
                for run in runs
                if (run["stage"], run["workers"]) == (stage, workers)
            )
            if own:
                spots, micro, held = zip(*own, strict=True)
                axes[0, column].loglog(spots, micro, "o-", label=f"{workers} workers")
                axes[1, column].loglog(spots, held, "o-")
        axes[0, column].set(title=stage, ylabel="µs a spot" if not column else "")
        axes[1, column].set(xlabel="spots", ylabel="GB, all processes" if not column else "")
    axes[0, -1].legend(frameon=False)
    drawn.tight_layout()
    drawn.savefig(path)
    pyplot.close(drawn)


def write(out: Path, runs: list[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(runs, indent=1) + "\n")
    out.with_suffix(".md").write_text(table(runs) + "\n")
    figure(runs, out.with_suffix(".svg"))


def into_docs(out: Path, runs: list[dict[str, Any]]) -> None:
    """Put table and figure between the markers of the page on benchmarks."""
    page = ROOT / "docs" / "benchmarks.md"
    text = page.read_text()
    if MARKERS[0] not in text:
        text += f"\n## Curves of scale\n\n{MARKERS[0]}\n{MARKERS[1]}\n"
    before, rest = text.split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    machines = " / ".join(sorted({run["machine"] for run in runs}))
    image = f"![microseconds a spot and memory, by stage and workers](_static/{out.name}.svg)"
    said = (
        f"On {machines}. The cost of a spot is processor time of all processes of a command; where other "
        "work was running (the load before it), the clock tells little. Memory is what its processes held "
        "together at most.\n"
    )
    page.write_text(f"{before}{MARKERS[0]}\n{said}\n{image}\n\n{table(runs)}\n{MARKERS[1]}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spots", default="1e5,2e5,5e5,1e6,2e6")
    parser.add_argument("--prepare-only", default="1e7")
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--models", default="inspire,stanmf")
    parser.add_argument("--budget", default="4GB")
    parser.add_argument("--dir", type=Path, default=Path("/tmp/atlasnmf-bench"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "_static" / "curves")
    parser.add_argument("--docs", action="store_true", help="put table and figure into docs/benchmarks.md")
    parser.add_argument("--keep", action="store_true", help="keep the simulated stores")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    args.workers = [int(text) for text in args.workers.split(",")]
    kept = args.out.with_suffix(".json")
    runs: list[dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else []
    models = [model for model in args.models.split(",") if model]
    for text in filter(None, args.spots.split(",")):
        one_size(args, int(float(text)), models, runs)
    for text in filter(None, args.prepare_only.split(",")):
        one_size(args, int(float(text)), [], runs)
    write(args.out, runs)
    if args.docs:
        into_docs(args.out, runs)
    print(table(runs))


if __name__ == "__main__":
    main()
