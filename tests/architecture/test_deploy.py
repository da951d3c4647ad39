"""What deploy/ offers can be read by what reads it, and names commands and options that exist."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = sorted([*DEPLOY.rglob("*.sbatch"), *DEPLOY.rglob("*.sh")])
MANIFESTS = sorted(DEPLOY.rglob("*.yaml"))
IMAGES = sorted(DEPLOY.glob("Dockerfile*"))
BIN = Path(sys.executable).parent


def text_of(path: Path) -> str:
    """Return a file without comments, with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not re.match(r"\s*#(?!SBATCH)", line)]
    return "\n".join(lines).replace("\\\n", " ")


def options_of(command: list[str]) -> set[str]:
    helped = subprocess.run(
        [str(BIN / command[0]), *command[1:], "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "TERM": "dumb"},
    )
    return set(re.findall(r"--[a-z][a-z-]*", helped.stdout))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(path: Path) -> None:
    assert shutil.which("bash")
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.read_text().startswith("#!/bin/bash\n")
    assert "set -euo pipefail" in path.read_text()


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_yaml_with_a_kind(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if path.parent.name == "kubernetes":
            assert {"apiVersion", "kind", "metadata"} <= document.keys()
        else:
            assert "distributed" in document


@pytest.mark.parametrize("name", ["cluster-cpu", "cluster-cuda"])
def test_clusters_are_whole(name: str) -> None:
    cluster = yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("kubernetes.dask.org/v1", "DaskCluster")
    own, spec = cluster["metadata"]["name"], cluster["spec"]
    assert spec["scheduler"]["service"]["selector"]["dask.org/cluster-name"] == own
    for part in (spec["worker"], spec["scheduler"]):
        (container,) = part["spec"]["containers"]
        assert container["args"][0] == "dask"
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in part["spec"].get("volumes", ())}
    assert "127.0.0.1:8787" in spec["scheduler"]["spec"]["containers"][0]["args"]


def test_the_fit_finds_the_scheduler() -> None:
    job = yaml.safe_load((DEPLOY / "kubernetes" / "fit.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    arguments = container["args"]
    assert arguments[:2] == ["atlasnmf", "fit"]
    # the operator names the service after the cluster
    assert arguments[arguments.index("--scheduler") + 1] == "tcp://atlasnmf-scheduler:8786"
    assert {word for word in arguments if word.startswith("--")} <= options_of(["atlasnmf", "fit", "inspire"])


def test_options_of_fits_in_scripts_exist() -> None:
    known = options_of(["atlasnmf", "fit", "inspire"])
    found = set()
    for path in (DEPLOY / "slurm").glob("*.sbatch"):
        for line in text_of(path).splitlines():
            if line.startswith("atlasnmf fit"):
                found |= set(re.findall(r"--[a-z][a-z-]*", line))
    assert found
    assert found <= known


@pytest.mark.parametrize("role", ["scheduler", "worker"])
def test_options_of_dask_exist(role: str) -> None:
    found = set()
    for path in [*(DEPLOY / "slurm").glob("*.sbatch"), *(DEPLOY / "kubernetes").glob("cluster-cpu.yaml")]:
        text = text_of(path)
        for match in re.findall(rf"dask {role} ([^&\n]*)", text):
            found |= set(re.findall(r"--[a-z][a-z-]*", match))
        for line in re.findall(rf'"dask", "{role}", (.*)\]', text):
            found |= set(re.findall(r"--[a-z][a-z-]*", line))
    assert found
    assert found <= options_of(["dask", role])


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_images_copy_what_exists_and_are_not_root(path: Path) -> None:
    text = text_of(path)
    for sources in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())
    assert re.search(r"^USER (?!root)", text, re.MULTILINE)
    assert len(re.findall(r"^FROM ", text, re.MULTILINE)) >= 1


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.py")), ids=lambda path: path.name)
def test_python_files_parse_and_name_public_things(path: Path) -> None:
    import atlasnmf

    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "an":
            assert hasattr(atlasnmf, node.attr)


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
