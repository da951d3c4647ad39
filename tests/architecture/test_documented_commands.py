"""Commands in the documentation exist, with every option they are shown with."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from atlasnmf.cli import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("[a-z]*/README.md"),
        ROOT / "Makefile",
    ]
    if "_build" not in page.parts and "generated" not in page.parts
)
#: A command line in a code block, in backticks, or in a make recipe.
COMMAND = re.compile(r"(?:^\$ |`|^\t\$\(BIN\)/)(atlasnmf [a-z][^`\n]*)", re.MULTILINE)


def commands_of(page: Path) -> list[str]:
    """Return the command lines a page shows."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split(" #")[0].split(" && ")[0].strip() for line in COMMAND.findall(text)]


CASES = [(page, line) for page in PAGES for line in commands_of(page)]


@pytest.mark.parametrize(("page", "line"), CASES, ids=[f"{p.relative_to(ROOT)}: {c}" for p, c in CASES])
def test_command_exists(page: Path, line: str) -> None:
    """The command is there and knows every option shown."""
    command: Any = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    while words and hasattr(command, "get_command"):
        command = command.get_command(None, words.pop(0))
        assert command is not None, f"{page.name}: no such command in {line!r}"
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    shown = {word.split("=")[0] for word in words if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
    assert shown <= known | {"--help"}, f"{page.name}: {line!r} has no {sorted(shown - known)}"


def all_options(command: Any) -> set[str]:
    """Return the options of a command and of everything below it."""
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
        known |= all_options(command.get_command(None, name))
    return known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_the_text_exist(page: Path) -> None:
    """An option named in running text belongs to some command."""
    named = set(re.findall(r"`(--[a-z][a-z-]*)", page.read_text(encoding="utf-8")))
    missing = named - all_options(typer.main.get_command(app)) - {"--help"}
    assert not missing, f"{page.name} names {sorted(missing)}"


def test_pages_show_commands() -> None:
    """The pattern above still finds the commands."""
    assert len(CASES) > 20
