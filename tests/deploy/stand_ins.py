"""Slurm's programs, played by small scripts that start the processes here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "deploy" / "slurm"
BIN = Path(sys.executable).parent
TIMEOUT_S = 400

#: A task for each of SLURM_NTASKS; a signal to srun reaches them. An option that is not srun's is an error.
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do
    case $1 in
        --wait=0 | --kill-on-bad-exit=0 | --cpus-per-task=*) shift ;;
        *) echo "srun: unrecognized option '$1'" >&2; exit 1 ;;
    esac
done
TASKS=() ENDED=''
trap 'ENDED=1; kill "${TASKS[@]}" 2>/dev/null' TERM
for ((task = 0; task < SLURM_NTASKS; task++)); do [ -n "$ENDED" ] || { "$@" & TASKS+=($!); }; done
[ -z "$ENDED" ] || kill "${TASKS[@]}" 2>/dev/null
wait
wait
"""
SCONTROL = """#!/bin/bash
echo "$*" >> "$SLURM_SUBMIT_DIR/scontrol.log"
"""
HOSTNAME = """#!/bin/bash
echo 127.0.0.1
"""
#: A worker without a device in the place of one a device.
DASK = """#!/bin/bash
if [ "$1 $2" != "cuda worker" ]; then exec "{real}" "$@"; fi
shift 2
KEPT=()
while [ $# -gt 0 ]; do
    case $1 in
        --rmm-pool-size | --set-rmm-allocator-for-libs) shift 2 ;;
        *) KEPT+=("$1"); shift ;;
    esac
done
exec "{real}" worker --nthreads 1 "${{KEPT[@]}}"
"""


@dataclass
class Job:
    """A batch script as Slurm would run it, in a folder of its own."""

    folder: Path
    script: str
    number: int = 4711
    environment: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        programs = self.folder / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        texts = {
            "srun": SRUN,
            "scontrol": SCONTROL,
            "hostname": HOSTNAME,
            "dask": DASK.format(real=BIN / "dask"),
        }
        for name, text in texts.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)

    @property
    def scheduler_file(self) -> Path:
        return self.folder / f"scheduler-{self.number}.json"

    @property
    def log(self) -> str:
        return (self.folder / "job.log").read_text()

    @property
    def asked_of_slurm(self) -> list[str]:
        log = self.folder / "scontrol.log"
        return log.read_text().splitlines() if log.exists() else []

    def start(self, **more: str) -> subprocess.Popen[bytes]:
        given = {
            "PATH": f"{self.folder / 'bin'}:{BIN}:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(self.folder),
            "SLURM_JOB_ID": str(self.number),
            "SLURM_NTASKS": "2",
            "SLURM_NNODES": "2",
            "SLURM_GPUS_ON_NODE": "1",
            "SLURM_CPUS_PER_TASK": "1",
            "NUMBA_NUM_THREADS": "1",
            "TMPDIR": str(self.folder),
            "STAND_IN_JOB": self.mark,
        }
        with (self.folder / "job.log").open("ab") as log:
            return subprocess.Popen(
                ["bash", str(SLURM / self.script)],
                stdout=log,
                stderr=log,
                env=os.environ | given | self.environment | more,
                cwd=self.folder,
            )

    def run(self, **more: str) -> int:
        return self.start(**more).wait(TIMEOUT_S)

    def processes(self) -> list[psutil.Process]:
        """Return what runs of the job, wherever it has gone."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("STAND_IN_JOB") == self.mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def clear(self) -> None:
        for process in self.processes():
            process.kill()


def until(done: Callable[[], bool], timeout_s: float = 240) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
