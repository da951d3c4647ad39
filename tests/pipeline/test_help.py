"""What a new user meets first: help texts with examples, and completion by the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from atlasnmf import models

PROGRAM = str(Path(sys.executable).with_name("atlasnmf"))


def _said(*arguments: str, **settings: str) -> str:
    plain = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    run = subprocess.run(
        [PROGRAM, *arguments], capture_output=True, text=True, env=os.environ | plain | settings, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(
    "command",
    [
        *(("fit", model) for model in models.available()),
        ("estimate", "inspire"),
        ("simulate", "embryo"),
        ("simulate", "pair"),
        ("simulate", "volume"),
        ("ingest",),
        ("prepare",),
        ("resume",),
        ("info",),
        ("report",),
    ],
    ids=" ".join,
)
def test_help_shows_an_example_of_the_command_itself(command: tuple[str, ...]) -> None:
    text = " ".join(_said(*command, "--help").split())
    assert f"Example: atlasnmf {' '.join(command)} " in text


def test_commands_are_listed_in_the_order_of_their_use() -> None:
    text = _said("--help")
    used = ["simulate", "ingest", "prepare", "estimate", "fit", "resume", "info", "report"]
    places = [text.index(f" {name} ", text.index("Commands")) for name in used]
    assert places == sorted(places)


def test_options_of_a_fit_stand_in_groups() -> None:
    text = _said("fit", "inspire", "--help")
    groups = ["The model", "Preparation", "What is read", "How it runs"]
    starts = [text.index(group) for group in groups]
    assert starts == sorted(starts)
    for option, group in (("--n-factors", 0), ("--radius ", 1), ("--slice-key", 2), ("--memory-budget", 3)):
        after = [*starts, len(text)][group + 1]
        assert starts[group] < text.index(f" {option}", starts[0]) < after, option
    assert "completion" not in text


def test_it_says_its_version() -> None:
    from atlasnmf import __version__

    assert _said("--version").strip() == f"atlasnmf {__version__}"


@pytest.mark.parametrize(
    "typed, offered",
    [
        ("atlasnmf re", {"resume", "report"}),
        ("atlasnmf fit ", set(models.available())),
        ("atlasnmf simulate p", {"pair"}),
        ("atlasnmf fit inspire a.zarr --enc", {"--encoder"}),
    ],
)
def test_the_shell_completes(typed: str, offered: set[str]) -> None:
    words = len(typed.split()) - (0 if typed.endswith(" ") else 1)
    said = _said(_ATLASNMF_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(words))
    assert set(said.split()) == offered
