"""Sphinx configuration; the command-line page is written from the commands' own help texts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sphinx.application import Sphinx

import atlasnmf

project = "atlasnmf"
author = "The atlasnmf developers"
project_copyright = "2026, the atlasnmf developers"
version = release = atlasnmf.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "api/generated/cli.md", "_static"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autosummary_generate = True
autosummary_ignore_module_all = False
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = "atlasnmf"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}


def write_command_page(app: Sphinx) -> None:
    """Write the reference of every command from its own help text, so that the two cannot drift apart."""
    out = Path(app.srcdir, "api", "generated", "cli.md")
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "typer", "atlasnmf.cli", "utils", "docs", "--name", "atlasnmf"]
    out.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def write_tutorials(app: Sphinx) -> None:
    """Turn each tutorial, a script with its text in comments, into a page; its pictures lie beside it."""
    folder = Path(app.srcdir, "tutorials")
    for script in sorted(folder.glob("*.py")):
        page, fenced = [], False
        for line in script.read_text(encoding="utf-8").splitlines():
            if line.startswith("# %%"):
                page += ["```", ""] if fenced else [""]
                fenced = "markdown" not in line
                page += ["```python"] if fenced else []
            elif fenced:
                page += [] if not line and page[-1] == "```python" else [line]
            else:
                page.append(line.removeprefix("#").removeprefix(" "))
        text = "\n".join([*page, "```" if fenced else ""]).strip() + "\n"
        script.with_suffix(".md").write_text(
            text.replace("\n\n\n```\n", "\n```\n").replace("\n\n```\n", "\n```\n")
        )


def setup(app: Sphinx) -> None:
    """Register the pages above."""
    app.connect("builder-inited", write_command_page, priority=100)
    app.connect("builder-inited", write_tutorials, priority=100)
