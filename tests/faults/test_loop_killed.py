"""kill -9 at random instants of a run: the resumed run ends with the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

METHODS = Path(__file__).parents[1] / "train"

SCRIPT = """
import sys
sys.path.insert(0, {methods!r})
from torch_method import Autoencoder, RandomUnits
from atlasnmf.train import Checkpoint, History, run

folder, pause_s = sys.argv[1], float(sys.argv[2])
print("ready", flush=True)
run(
    Autoencoder(150), RandomUnits(pause_s=pause_s), sample=lambda: RandomUnits(seed=9).unit(0),
    checkpoint=Checkpoint(folder, "k", every_steps=2), callbacks=[History(folder + "/metrics.jsonl")],
)
"""


def start(folder, pause_s):
    script = SCRIPT.format(methods=str(METHODS))
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(pause_s)], stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(60, process.kill)  # one that hangs says nothing, and fails
    watchdog.start()
    said = process.stdout.readline()
    watchdog.cancel()
    assert said == "ready\n"
    return process


def finish(folder):
    process = start(folder, 0.0)
    process.communicate(timeout=120)
    assert process.returncode == 0
    return (folder / "autoencoder-k.safetensors").read_bytes(), losses(folder)


def losses(folder):
    import json

    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(record["step"], record["loss"]) for record in map(json.loads, lines)]


@pytest.mark.parametrize("seed", range(2))
def test_kill_minus_nine(tmp_path, seed):
    rng = np.random.default_rng(seed)
    folder = tmp_path / "killed"
    folder.mkdir()
    for _ in range(3):
        process = start(folder, 0.005)
        time.sleep(rng.uniform(0.02, 0.25))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
    (tmp_path / "whole").mkdir()
    assert finish(folder) == finish(tmp_path / "whole")
