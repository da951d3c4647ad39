"""A fit on workers that Dask itself asks Slurm for; needs dask-jobqueue.

usage: python deploy/slurm/jobqueue.py STORE.zarr [--workers 16] [--memory 8GB] [--memory-budget 7GB]
           [--queue normal] [--walltime 12:00:00]
"""

from __future__ import annotations

import argparse

import atlasnmf as an

#: What the batch scripts set, and why: docs/deploy.md.
SETTINGS = {
    "OMP_NUM_THREADS": 1,
    "MKL_NUM_THREADS": 1,
    "OPENBLAS_NUM_THREADS": 1,
    "MALLOC_TRIM_THRESHOLD_": 64 << 20,
    "MALLOC_MMAP_THRESHOLD_": 32 << 20,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--memory", default="8GB", help="of a worker's job")
    parser.add_argument("--memory-budget", default="7GB", help="of a worker")
    parser.add_argument("--queue", default=None)
    parser.add_argument("--walltime", default="12:00:00")
    parser.add_argument("--factors", type=int, default=20)
    args = parser.parse_args()

    from dask.distributed import Client
    from dask_jobqueue import SLURMCluster

    cluster = SLURMCluster(
        queue=args.queue,
        cores=1,
        processes=1,
        memory=args.memory,
        walltime=args.walltime,
        # the last limit counts: Slurm's and the budget hold, Dask's would stop a worker in mid-step
        worker_extra_args=["--memory-limit", "0", "--no-dashboard"],
        job_script_prologue=[f"export {name}={value}" for name, value in SETTINGS.items()],
        scheduler_options={"dashboard_address": "127.0.0.1:8787"},
    )
    cluster.scale(jobs=args.workers)
    with cluster, Client(cluster) as client:
        client.wait_for_workers(args.workers)
        atlas = an.open_atlas(args.store)
        model = an.Inspire(n_factors=args.factors)
        fit = model.fit(atlas, client=client, memory_budget=args.memory_budget)
        fit.write()


if __name__ == "__main__":
    main()
