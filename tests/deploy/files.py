"""What deploy/ holds, read the way its readers read it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BIN = Path(sys.executable).parent


def text_of(path: Path) -> str:
    """Return a file without comments, with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not re.match(r"\s*#(?!SBATCH)", line)]
    return "\n".join(lines).replace("\\\n", " ")


def manifest(name: str) -> dict[str, Any]:
    """Return the one document of a manifest."""
    (document,) = yaml.safe_load_all((KUBERNETES / f"{name}.yaml").read_text())
    return document


def container_of(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the only container of a pod."""
    (container,) = pod["containers"]
    return container


def options_of(command: list[str]) -> set[str]:
    """Return the options that a command's help names."""
    helped = subprocess.run(
        [str(BIN / command[0]), *command[1:], "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "TERM": "dumb"},
    )
    return set(re.findall(r"--[a-z][a-z-]*", helped.stdout))
