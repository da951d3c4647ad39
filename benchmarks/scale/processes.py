"""Run a command as a whole process and say what it cost."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """Wall seconds, processor seconds and peak resident bytes of one finished process."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    stdout: str


def measure(command: list[str]) -> Cost:
    """Run a command to its end; raise when it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    stdout = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return Cost(
        wall_s=time.perf_counter() - start,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
        stdout=stdout,
    )


def atlasnmf(*arguments: str) -> list[str]:
    """Return the command line of the installed program."""
    return [str(Path(sys.executable).with_name("atlasnmf")), *arguments]


def machine() -> str:
    """Say where and when a figure was taken."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {model}, {system}, {date.today()}"
