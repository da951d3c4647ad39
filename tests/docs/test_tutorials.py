"""Tutorials run as they are read, and make the pictures that their pages show."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
SCRIPTS = sorted(FOLDER.glob("*.py"))
_SHOWN = re.compile(r"!\[(.+?)\]\((pictures/[^)]+)\)")


def test_every_model_has_one():
    from atlasnmf import models

    assert set(models.available()) <= {script.stem for script in SCRIPTS}
    index = (FOLDER / "index.md").read_text()
    assert all(re.search(rf"^{script.stem}$", index, re.M) for script in SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_pictures_of_its_page_are_there_and_small(script):
    shown = _SHOWN.findall(script.read_text())
    assert shown
    for text, picture in shown:
        assert len(text) > 10
        assert (FOLDER / picture).stat().st_size < 150_000
    ast.parse(script.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_runs_and_makes_its_pictures(script, tmp_path):
    settings = os.environ | {"MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=850
    )
    assert run.returncode == 0, run.stderr[-3000:]
    for _, picture in _SHOWN.findall(script.read_text()):
        with Image.open(tmp_path / picture) as made:
            assert min(made.size) > 100
            assert len(made.convert("RGB").resize((64, 64)).getcolors(64 * 64)) > 4
