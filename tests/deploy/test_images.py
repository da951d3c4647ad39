"""Image files: what they copy is there, what they install is pinned and can start, and nobody is root."""

from __future__ import annotations

import fnmatch
import importlib
import re
import tomllib
from pathlib import Path

import pytest
from files import DEPLOY, ROOT, text_of

IMAGES = sorted(DEPLOY.glob("Dockerfile*"))
INSTRUCTIONS = ("FROM", "ARG", "RUN", "COPY", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return the instructions in their order, with their words."""
    lines = [line for line in text_of(path).splitlines() if line.strip()]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def words_of(path: Path, name: str) -> list[str]:
    return [words for instruction, words in instructions(path) if instruction == name]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.lower().split("==") for line in lines if "==" in line)


def sent_to_the_builder(name: str) -> bool:
    """Say whether .dockerignore leaves a file or folder of the checkout in; later lines count more."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and fnmatch.fnmatch(name, pattern):
            sent = line.startswith("!")
    return sent


@pytest.fixture(params=IMAGES, ids=lambda path: path.name)
def image(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_instructions_are_known_and_in_their_place(image: Path) -> None:
    names = [name for name, _ in instructions(image)]
    assert names[0] == "FROM"
    assert set(names) <= set(INSTRUCTIONS)
    assert all(":" in words.split()[0] for words in words_of(image, "FROM"))  # no "latest"
    assert names.index("COPY") < names.index("ENTRYPOINT")


def test_what_is_copied_is_there_and_is_sent(image: Path) -> None:
    copied = [words.split()[:-1] for words in words_of(image, "COPY") if not words.startswith("--from")]
    assert copied
    for source in [name for names in copied for name in names]:
        assert (ROOT / source).exists()
        assert sent_to_the_builder(source)
    # what a wheel is built of: the package and all that pyproject.toml names
    assert {"pyproject.toml", "atlasnmf", PROJECT["readme"], "constraints.txt"} <= {
        name for names in copied for name in names
    }
    assert not any(sent_to_the_builder(name) for name in (".venv", ".git", "demo", "docs", "big.zarr"))


def test_the_last_user_is_not_root(image: Path) -> None:
    """By number: Kubernetes cannot tell of a name whether it is root."""
    (user,) = words_of(image, "USER")
    assert int(user) >= 1000
    assert f"--uid {user} " in " ".join(words_of(image, "RUN"))
    names = [name for name, _ in instructions(image)]
    assert names.index("USER") > max(at for at, name in enumerate(names) if name == "RUN")


def test_what_is_installed_is_pinned(image: Path) -> None:
    (torch,) = re.findall(r'TORCH="(torch==[\d.]+)"', text_of(image))
    assert torch == f"torch=={pins()['torch']}"
    assert re.findall(r"^TORCH\s*\?=\s*(\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE) == [torch]
    (line,) = re.findall(r"pip install --no-cache-dir -c constraints.txt (.*)", text_of(image))
    own, *others = line.split()
    extras = re.fullmatch(r'"\.\[([a-z,]+)\]"', own)
    assert extras is not None
    asked = [text for extra in extras[1].split(",") for text in PROJECT["optional-dependencies"][extra]]
    names = [re.split(r"[<>=;\[ ]", text)[0].lower() for text in [*PROJECT["dependencies"], *asked, *others]]
    assert [name for name in names if name not in pins()] == []


def test_pins_are_new_enough_for_the_project() -> None:
    """No pin is below what pyproject.toml asks for: pip would find nothing to install."""
    from packaging.requirements import Requirement

    asked = [
        *PROJECT["dependencies"],
        *(t for texts in PROJECT["optional-dependencies"].values() for t in texts),
    ]
    for requirement in map(Requirement, asked):
        if requirement.name.lower() in pins():
            assert requirement.specifier.contains(pins()[requirement.name.lower()]), requirement


def test_pythons_are_those_the_project_runs_on(image: Path) -> None:
    found = re.findall(r"python:?(3\.\d+)", text_of(image))
    assert set(found) == {"3.11"}
    assert PROJECT["requires-python"] == ">=3.11"


def test_a_container_starts_the_command_line(image: Path) -> None:
    assert words_of(image, "ENTRYPOINT") == ['["tini", "--"]']
    assert re.search(r"apt-get install .* tini\b", text_of(image))
    (command,) = words_of(image, "CMD")
    script = re.findall(r'"([^"]+)"', command)[0]
    module, function = PROJECT["scripts"][script].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    environment = " ".join(words_of(image, "ENV"))
    assert "PATH=/opt/atlasnmf/bin:$PATH" in environment
    # a read-only environment: what is compiled goes where anybody may write
    assert "NUMBA_CACHE_DIR=/tmp/" in environment
    assert "MALLOC_TRIM_THRESHOLD_=67108864" in environment
