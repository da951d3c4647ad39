"""The small fitted stores that examples open by name, made as the reference says, when first asked for."""

from __future__ import annotations

import contextlib
import re
import shutil
from doctest import DocTest
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def _recipes() -> dict[str, str]:
    """Return the code that makes each store, by its name: a paragraph of the page's first block."""
    block = re.search(r"```python\n(.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    imports, *recipes = block[1].split("\n\n")
    named = re.compile(r'"([a-z]+\.zarr)"')
    return {named.findall(recipe)[0]: f"{imports}\n{recipe}" for recipe in recipes}


STORES = _recipes()


def stores_of(examples: DocTest) -> list[str]:
    """Return the stores that the examples of a docstring name."""
    text = "".join(example.source for example in examples.examples)
    return [name for name in STORES if f'"{name}"' in text]


class ExampleStores:
    """Makes each store once, in a folder of its own, and hands out copies to write into."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copy(self, name: str, into: Path) -> None:
        """Copy a store, with its working copy, into a folder."""
        if not (self._folder / name).exists():
            with contextlib.chdir(self._folder):
                exec(compile(STORES[name], f"{_PAGE}: {name}", "exec"), {})
        for part in (name, f"{name}.atlasnmf"):
            if (self._folder / part).exists():
                shutil.copytree(self._folder / part, into / part)
