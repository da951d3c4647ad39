"""The quickstart does what it says: its commands and its Python are run as they are printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"


def _commands() -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.S)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line) for line in lines if line.startswith("atlasnmf ")]


def test_it_shows_the_commands_of_a_first_use():
    assert [command[1] for command in _commands()] == ["simulate", "fit", "info", "report"]


@pytest.mark.slow
def test_its_commands_and_its_python_run(tmp_path):
    settings = os.environ | {"MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore"}
    program = str(Path(sys.executable).with_name("atlasnmf"))
    said = ""
    for command in _commands():
        run = subprocess.run(
            [program, *command[1:]], cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=400
        )
        assert run.returncode == 0, run.stderr[-2000:]
        said += run.stdout
    assert "smoothed PCA" in said
    assert (tmp_path / "report.html").stat().st_size > 10_000
    reads, again = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    checked = reads + "\nassert abs(table.obsm['inspire_factors'].sum(axis=1) - 1).max() < 1e-3\n"
    for script in (checked, again.replace("steps=200,", "steps=5, key_added='again',")):
        run = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=settings, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-2000:]
