"""A fit on workers that Dask itself asks Slurm for; needs dask-jobqueue.

usage: python deploy/slurm/jobqueue.py STORE.zarr [--workers 16] [--queue normal] [--walltime 12:00:00]
"""

from __future__ import annotations

import argparse

import atlasnmf as an


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--memory", default="8GB", help="of a worker")
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
        job_script_prologue=["export OMP_NUM_THREADS=1"],
        scheduler_options={"dashboard_address": "127.0.0.1:8787"},
    )
    cluster.scale(jobs=args.workers)
    with cluster, Client(cluster) as client:
        client.wait_for_workers(args.workers)
        atlas = an.open_atlas(args.store)
        fit = an.Inspire(n_factors=args.factors).fit(atlas, client=client, memory_budget=args.memory)
        fit.write()


if __name__ == "__main__":
    main()
