"""Commands and options that deploy/ names exist, and its scripts can be read."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from files import DEPLOY, KUBERNETES, ROOT, manifest, options_of, text_of

from atlasnmf.budget import parse_bytes
from atlasnmf.cli import app

SCRIPTS = sorted([*DEPLOY.rglob("*.sbatch"), *DEPLOY.rglob("*.sh")])
PAGES = [ROOT / "docs" / "deploy.md", DEPLOY / "README.md"]
#: Of ``dask cuda worker``, which only machines with devices have (dask-cuda 26.6).
CUDA_WORKER = {
    *("--scheduler-file", "--name", "--rmm-pool-size", "--set-rmm-allocator-for-libs", "--memory-limit"),
    *("--local-directory", "--death-timeout", "--no-dashboard"),
}


def dask_commands() -> list[tuple[str, str]]:
    """Return where a command of Dask stands, and the command."""
    found = []
    for path in [*SCRIPTS, *PAGES]:
        for line in re.findall(r"dask (?:scheduler|worker|cuda worker) [^&\n#`]*", text_of(path)):
            found.append((path.name, line))
    for name in ("cluster-cpu", "cluster-cuda"):
        spec = manifest(name)["spec"]
        for part in ("worker", "scheduler"):
            found.append((name, " ".join(spec[part]["spec"]["containers"][0]["args"])))
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.read_text().startswith("#!/bin/bash\n")
    assert "set -euo pipefail" in path.read_text()
    if (shellcheck := shutil.which("shellcheck")) is not None:
        subprocess.run([shellcheck, "--severity=warning", str(path)], check=True)


@pytest.mark.parametrize(("place", "line"), dask_commands())
def test_options_of_dask_exist(place: str, line: str) -> None:
    words = line.split()
    named = set(re.findall(r"--[a-z][a-z-]*", line))
    if words[1:3] == ["cuda", "worker"]:
        assert named <= CUDA_WORKER
    else:
        assert named <= options_of(words[:2])
        assert named  # the pattern still finds them


@pytest.mark.parametrize("path", sorted((DEPLOY / "slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_options_of_fits_exist(path: Path) -> None:
    (line,) = re.findall(r"atlasnmf fit .*", text_of(path))
    named = set(re.findall(r"--[a-z][a-z-]*", line))
    assert "--scheduler" in named
    assert named <= options_of(["atlasnmf", "fit", "inspire"])


@pytest.mark.parametrize("name", ["fit", "fit-cuda"])
def test_fits_of_manifests_are_read_as_they_are_meant(name: str) -> None:
    """The parser of the command line takes every word, values included."""
    words = manifest(name)["spec"]["template"]["spec"]["containers"][0]["args"]
    assert words[:3] == ["atlasnmf", "fit", "inspire"]
    command = typer.main.get_command(app).get_command(None, "fit").get_command(None, "inspire")  # type: ignore[attr-defined]
    parsed = command.make_context("inspire", list(words[3:])).params
    assert parsed["store"] == "/data/embryo.zarr"
    assert parsed["n_factors"] == "40"
    assert parsed["scheduler"].startswith("tcp://")


def test_what_slurm_is_asked_for_is_enough_for_the_budgets() -> None:
    """Workers of a node, and on the first the client, each within their budget; 10^9 bytes and 2^30."""
    cpu, cuda = (text_of(DEPLOY / "slurm" / f"fit_{kind}.sbatch") for kind in ("cpu", "cuda"))

    def asked(text: str, pattern: str) -> int:
        (found,) = re.findall(pattern, text)
        return int(found)

    tasks = asked(cpu, r"--ntasks-per-node=(\d+)")
    room = tasks * asked(cpu, r"--mem-per-cpu=(\d+)G") * 2**30
    assert (tasks + 1) * asked(cpu, r"--memory-budget (\d+)GB") * 10**9 < room
    room = asked(cuda, r"--mem=(\d+)G") * 2**30
    assert (asked(cuda, r"--gpus-per-node=(\d+)") + 1) * asked(
        cuda, r"--memory-budget (\d+)GB"
    ) * 10**9 < room


def test_the_two_batch_scripts_differ_in_what_they_must_alone() -> None:
    """What watches over a job was mended in one of them: mend it in the other."""
    cpu, cuda = (text_of(DEPLOY / "slurm" / f"fit_{kind}.sbatch").splitlines() for kind in ("cpu", "cuda"))
    differ = {line.split("=")[0].split()[0] for line in set(cpu) ^ set(cuda)}
    assert differ == {"#SBATCH", "WORKERS", "srun", "attended"}


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.py")), ids=lambda path: path.name)
def test_python_files_parse_and_name_public_things(path: Path) -> None:
    import atlasnmf

    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "an":
            assert hasattr(atlasnmf, node.attr)


def test_files_that_the_page_names_exist() -> None:
    named = re.findall(r"\bdeploy/[\w./-]+\.\w+", " ".join(page.read_text() for page in PAGES))
    assert len(named) > 10
    assert not [name for name in named if not (ROOT / name).exists()]
    shown = {path.name for path in KUBERNETES.glob("*.yaml")}
    assert all(f"deploy/kubernetes/{name}" in (ROOT / "docs" / "deploy.md").read_text() for name in shown)


@pytest.mark.slow
def test_sizes_are_those_of_the_page() -> None:
    """The first row of the table says what the program says, give or take a tenth."""
    said = subprocess.run(
        [sys.executable, str(DEPLOY / "sizes.py"), "--spots", "1e5"],
        capture_output=True,
        text=True,
        check=True,
    )
    head, _, row = said.stdout.splitlines()
    page = PAGES[0].read_text()
    assert head in page
    (shown,) = re.findall(r"^\| 100,000 \|.*$", page, re.MULTILINE)
    for cell, printed in zip(shown.split("|"), row.split("|"), strict=True):
        if "B" in printed:
            assert parse_bytes(cell.strip()) == pytest.approx(parse_bytes(printed.strip()), rel=0.1)
        else:
            assert cell == printed


def test_certificates_are_made(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    subprocess.run(
        ["bash", str(DEPLOY / "tls" / "make_certificates.sh"), str(tmp_path)], check=True, capture_output=True
    )
    assert {path.name for path in tmp_path.iterdir()} >= {"ca.pem", "ca.key", "node.pem", "node.key"}
    checked = subprocess.run(
        ["openssl", "verify", "-CAfile", "ca.pem", "node.pem"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "OK" in checked.stdout


def test_tls_settings_are_settings_of_dask() -> None:
    """Every setting is one that Dask has, so none is spelt in vain."""
    import distributed  # noqa: F401  (its defaults are what is compared with)
    import yaml
    from dask import config

    def leaves(tree: object, at: str = "") -> list[str]:
        if not isinstance(tree, dict):
            return [at]
        return [leaf for name, below in tree.items() for leaf in leaves(below, f"{at}.{name}".lstrip("."))]

    for setting in leaves(yaml.safe_load((DEPLOY / "tls" / "dask.yaml").read_text())):
        assert config.get(setting, default="missing") != "missing", setting


def test_workers_that_dask_asks_slurm_for(tmp_path: Path) -> None:
    """The job that dask-jobqueue would hand in, as the script sets it up."""
    pytest.importorskip("dask_jobqueue")
    run = (
        "import os, sys, json, runpy, dask_jobqueue\n"
        "class Cluster(dask_jobqueue.SLURMCluster):\n"
        "    def scale(self, *none, **wanted):\n"
        "        print(json.dumps([self.job_script(), wanted]), flush=True)\n"
        "        os._exit(0)\n"
        "dask_jobqueue.SLURMCluster = Cluster\n"
        "sys.argv = ['jobqueue.py', 'store.zarr', '--workers', '3', '--queue', 'short']\n"
        f"runpy.run_path({str(DEPLOY / 'slurm' / 'jobqueue.py')!r}, run_name='__main__')\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", run], capture_output=True, text=True, cwd=tmp_path, check=True
    ).stdout
    script, wanted = json.loads(said.splitlines()[-1])
    assert wanted == {"jobs": 3}
    assert "#SBATCH -p short" in script
    assert "export MALLOC_TRIM_THRESHOLD_=67108864" in script
    (worker,) = [line for line in script.splitlines() if "--nthreads" in line]
    assert re.findall(r"--memory-limit (\S+)", worker)[-1] == "0"
    named = set(re.findall(r"--[a-z][a-z-]*", worker))
    assert named <= options_of(["dask", "worker"])
