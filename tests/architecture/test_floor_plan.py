"""The house keeps its floor plan: imports point down, walls stand, files stay readable."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import grimp
import importlinter.api
import importlinter.cli
import pytest

ROOT = Path(__file__).parents[2]
CONFIGURATION = str(ROOT / "pyproject.toml")
SOURCES = sorted((ROOT / "atlasnmf").rglob("*.py"))
CONTRACTS = [
    contract["id"] for contract in importlinter.api.read_configuration(CONFIGURATION)["contracts_options"]
]
#: The only places that may name a Dask scheduler or a process group.
SCHEDULING = ("atlasnmf.reduce", "atlasnmf.train.ranks")
MOST_LINES = 600
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "manager"}


def module_of(path: Path) -> str:
    """Return the dotted name of a source file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def may_schedule(module: str) -> bool:
    """Say whether a module lies in one of the scheduling rooms."""
    return any(module == room or module.startswith(room + ".") for room in SCHEDULING)


def dotted(node: ast.AST) -> str:
    """Return ``a.b.c`` for a chain of attributes, or an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        start = dotted(node.value)
        return f"{start}.{node.attr}" if start else ""
    return ""


def names_in(tree: ast.AST) -> set[str]:
    """Return every imported module and every dotted name of a file."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(dotted(node))
    return names


@pytest.mark.parametrize("contract", CONTRACTS)
def test_import_contract_is_kept(
    contract: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every contract of pyproject.toml holds; the message shows the chain that breaks it."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])
    status = importlinter.cli.lint_imports(CONFIGURATION, (contract,), no_cache=True, no_logo=True)
    assert status == 0, capsys.readouterr().out


def test_contracts_cover_the_walls() -> None:
    """Nobody took a contract away."""
    walls = {"floors", "kernels", "metrics", "figures", "model-io", "model-independence", "models-discovered"}
    assert walls <= set(CONTRACTS)


def test_dask_is_imported_only_where_work_is_scheduled() -> None:
    """Dask and distributed are imported by reduce/ and train/ranks.py alone."""
    graph = grimp.build_graph(
        "atlasnmf", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    outside = {"dask", "distributed"} & graph.modules
    importers = {name for package in outside for name in graph.find_modules_that_directly_import(package)}
    assert not {name for name in importers if not may_schedule(name)}


def test_no_module_needs_itself() -> None:
    """No circle of imports, be it for types only or inside functions: what two share lies below both."""
    graph = grimp.build_graph("atlasnmf", exclude_type_checking_imports=False, cache_dir=None)
    circles = {
        (module, imported)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if graph.chain_exists(importer=imported, imported=module)
    }
    assert not circles


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_source_file(path: Path) -> None:
    """No process groups outside train/ranks.py, no rooms too large to see into, no names that say nothing."""
    text = path.read_text(encoding="utf-8")
    named = {name for name in names_in(ast.parse(text)) if name.startswith("torch.distributed")}
    assert not named or may_schedule(module_of(path)), f"{path} names {sorted(named)}"
    assert text.count("\n") <= MOST_LINES, f"{path} has {text.count(chr(10))} lines; split it by job"
    assert path.stem not in NAMES_THAT_SAY_NOTHING, f"{path}: name the file after its job"


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_nothing_forbidden_is_called(path: Path) -> None:
    """No pickle, no global seeds, no densified matrices, no swallowed bare exceptions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = names_in(tree)
    forbidden = {
        name
        for name in names
        if name.split(".")[0] in {"pickle", "cloudpickle", "dill", "joblib"}
        or name in {"np.random.seed", "numpy.random.seed", "random.seed", "torch.manual_seed"}
        or name.endswith((".todense", ".toarray"))
    }
    assert not forbidden, f"{path}: {sorted(forbidden)}"
    bare = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler) and not node.type]
    assert not bare, f"{path}: bare except on lines {bare}"
