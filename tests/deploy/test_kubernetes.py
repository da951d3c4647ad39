"""Manifests, against the fields of the Dask operator's resources; and what they start, started here."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from files import BIN, KUBERNETES, container_of, manifest

from atlasnmf.budget import parse_bytes

MANIFESTS = sorted(path.stem for path in KUBERNETES.glob("*.yaml"))
CLUSTERS = {"fit": "cluster-cpu", "fit-cuda": "cluster-cuda"}

#: Fields that may be there: a mapping is of fields, ``[x]`` a list of x, a type a value; ``!`` must be
#: there. Of the operator (kubernetes.dask.org/v1) and of Kubernetes itself, what deploy/ has a use for.
QUANTITIES = {str: str}
CONTAINER = {
    "name!": str,
    "image!": str,
    "imagePullPolicy": str,
    "command": [str],
    "args!": [str],
    "ports": [{"name!": str, "containerPort!": int, "protocol": str}],
    "readinessProbe": {"tcpSocket": {"port!": str}, "initialDelaySeconds": int, "periodSeconds": int},
    "resources!": {"requests!": QUANTITIES, "limits": QUANTITIES},
    "volumeMounts": [{"name!": str, "mountPath!": str}],
}
POD = {
    "containers!": [CONTAINER],
    "restartPolicy": str,
    "terminationGracePeriodSeconds": int,
    "securityContext!": {"runAsUser!": int, "runAsGroup": int, "fsGroup": int},
    "volumes": [
        {
            "name!": str,
            "persistentVolumeClaim": {"claimName!": str},
            "emptyDir": {"medium": str, "sizeLimit": str},
        }
    ],
}
SELECTOR = {"matchLabels": QUANTITIES, "matchExpressions": [{"key!": str, "operator!": str, "values": [str]}]}
SPECS = {
    ("kubernetes.dask.org/v1", "DaskCluster"): {
        "idleTimeout": int,
        "worker!": {"replicas!": int, "metadata": dict, "spec!": POD},
        "scheduler!": {
            "metadata": dict,
            "spec!": POD,
            "service!": {
                "type!": str,
                "selector!": QUANTITIES,
                "ports!": [{"name!": str, "protocol": str, "port!": int, "targetPort!": str}],
            },
        },
    },
    ("batch/v1", "Job"): {"backoffLimit": int, "template!": {"spec!": POD}},
    ("v1", "PersistentVolumeClaim"): {
        "accessModes!": [str],
        "resources!": {"requests!": QUANTITIES},
        "storageClassName": str,
    },
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "podSelector!": SELECTOR,
        "policyTypes": [str],
        "ingress": [{"from": [{"podSelector": SELECTOR}]}],
    },
}


def faults(value: Any, fields: Any, at: str = "") -> Iterator[str]:
    """Yield what a server would refuse, or a pod would do without."""
    if isinstance(fields, type):
        if type(value) is not fields:
            yield f"{at} is {value!r}, and not of {fields.__name__}"
    elif isinstance(fields, list):
        for number, item in enumerate(value):
            yield from faults(item, fields[0], f"{at}[{number}]")
    elif str in fields:
        for name, item in value.items():
            yield from faults(item, fields[str], f"{at}.{name}")
    else:
        known = {name.rstrip("!"): below for name, below in fields.items()}
        yield from (f"{at}.{name} is no field" for name in value.keys() - known.keys())
        yield from (f"{at} lacks {n}" for n in fields if n.endswith("!") and n.rstrip("!") not in value)
        for name in value.keys() & known.keys():
            yield from faults(value[name], known[name], f"{at}.{name}")


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_have_the_fields_of_their_kind(name: str) -> None:
    document = manifest(name)
    assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
    # a label of DNS; the operator wants room for "-scheduler" behind it
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?", document["metadata"]["name"])
    assert list(faults(document["spec"], SPECS[document["apiVersion"], document["kind"]])) == []


def test_faults_are_found() -> None:
    """What the check is for: a field too many, one too few, a number where Kubernetes wants a word."""
    spec = manifest("cluster-cpu")["spec"]
    spec["worker"]["replica"] = spec["worker"].pop("replicas")
    spec["worker"]["spec"]["containers"][0]["args"][-1] = 1
    found = "; ".join(faults(spec, SPECS["kubernetes.dask.org/v1", "DaskCluster"]))
    assert all(part in found for part in ("replica is no field", "lacks replicas!", "args", "not of str"))


@pytest.mark.parametrize("name", CLUSTERS.values())
def test_clusters_are_whole(name: str) -> None:
    cluster = manifest(name)
    own, spec = cluster["metadata"]["name"], cluster["spec"]
    service = spec["scheduler"]["service"]
    # the labels that the operator gives the scheduler's pod
    assert service["selector"] == {"dask.org/cluster-name": own, "dask.org/component": "scheduler"}
    scheduler, worker = (container_of(spec[part]["spec"]) for part in ("scheduler", "worker"))
    names = {port["name"]: port["containerPort"] for port in scheduler["ports"]}
    assert [(port["name"], port["port"]) for port in service["ports"]] == [("tcp-comm", 8786)]
    assert names[service["ports"][0]["targetPort"]] == 8786  # where the operator tells workers to look
    assert scheduler["readinessProbe"]["tcpSocket"]["port"] in names
    # the operator takes workers away by this name
    assert worker["args"][worker["args"].index("--name") + 1] == "$(DASK_WORKER_NAME)"
    # dashboards answer nobody but the machine they are on
    assert "127.0.0.1:8787" in scheduler["args"]
    assert "--no-dashboard" in worker["args"]
    for pod in (
        spec["worker"]["spec"],
        spec["scheduler"]["spec"],
        manifest("fit")["spec"]["template"]["spec"],
    ):
        mounted = {mount["name"] for mount in container_of(pod).get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in pod.get("volumes", ())}


@pytest.mark.parametrize(("fit", "cluster"), CLUSTERS.items())
def test_a_fit_and_its_cluster_belong_together(fit: str, cluster: str) -> None:
    pod, workers = manifest(fit)["spec"]["template"]["spec"], manifest(cluster)["spec"]["worker"]["spec"]
    client, worker = container_of(pod), container_of(workers)
    words = client["args"]
    # the operator names the service after the cluster
    address = f"tcp://{manifest(cluster)['metadata']['name']}-scheduler:8786"
    assert words[words.index("--scheduler") + 1] == address
    # a worker with another build of torch is refused
    assert client["image"] == worker["image"]
    # the same files under the same path, for the user of the image
    assert client["volumeMounts"][0] == worker["volumeMounts"][0]
    claim = manifest("volume")["metadata"]["name"]
    for one in (pod, workers):
        assert one["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim
        assert one["securityContext"] == {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
    budget = parse_bytes(words[words.index("--memory-budget") + 1])
    for one in (client, worker):
        assert budget < int(one["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert ("nvidia.com/gpu" in worker["resources"]["limits"]) == ("cuda" in words)


def test_the_network_lets_in_clusters_and_fits_alone() -> None:
    spec = manifest("network")["spec"]
    clusters = {manifest(name)["metadata"]["name"] for name in CLUSTERS.values()}
    (own,) = spec["podSelector"]["matchExpressions"]
    assert (own["key"], set(own["values"])) == ("dask.org/cluster-name", clusters)
    (rule,) = spec["ingress"]
    let_in = {}
    for one in rule["from"]:
        (expression,) = one["podSelector"]["matchExpressions"]
        let_in[expression["key"]] = set(expression["values"])
    fits = {manifest(name)["metadata"]["name"] for name in CLUSTERS}
    assert let_in == {"dask.org/cluster-name": clusters, "job-name": fits}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
def test_kubectl_reads_all_of_them(tmp_path: Path) -> None:
    """Without a server: it reads, merges and names them."""
    for name in MANIFESTS:
        shutil.copy(KUBERNETES / f"{name}.yaml", tmp_path)
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [f"{name}.yaml" for name in MANIFESTS]})
    )
    said = subprocess.run(
        ["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert len(list(yaml.safe_load_all(said.stdout))) == len(MANIFESTS)


def started(words: list[str], names: dict[str, str], log: Path, **more: str) -> subprocess.Popen[bytes]:
    """Start the program of a container, with Kubernetes' way to name variables in its arguments."""
    command = [re.sub(r"\$\((\w+)\)", lambda name: names[name[1]], word) for word in words]
    assert "$(" not in " ".join(command)
    with log.open("ab") as out:
        return subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            stdout=out,
            stderr=out,
            env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"} | names | more,
            cwd=log.parent,
        )


@pytest.mark.slow
def test_what_the_manifests_start_fits_a_store(tmp_path: Path) -> None:
    """Scheduler, workers and fit with their own arguments; addresses and folders are this machine's."""
    store = tmp_path / "embryo.zarr"
    shape = ["--n-spots", "1500", "--n-slices", "2", "--n-genes", "200"]
    subprocess.run([BIN / "atlasnmf", "simulate", "embryo", store, *shape], check=True, capture_output=True)
    spec = manifest("cluster-cpu")["spec"]
    scheduler, worker = (container_of(spec[part]["spec"])["args"] for part in ("scheduler", "worker"))
    words = container_of(manifest("fit")["spec"]["template"]["spec"])["args"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    running = []
    try:
        running.append(
            started([*scheduler, "--host", "127.0.0.1", "--port", str(port)], {}, tmp_path / "scheduler.log")
        )
        for number in range(2):
            # what the operator puts into a worker's environment
            names = {"DASK_WORKER_NAME": f"atlasnmf-{number}", "DASK_SCHEDULER_ADDRESS": address}
            running.append(started(worker, names, tmp_path / f"worker-{number}.log"))
        until = time.monotonic() + 120
        log = tmp_path / "scheduler.log"
        while log.read_text().count("Register worker") < 2:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        here = {"/data/embryo.zarr": str(store), "tcp://atlasnmf-scheduler:8786": address}
        command = [here.get(word, word) for word in words] + ["--steps", "20", "--batch-spots", "128"]
        fit = started(command, {}, tmp_path / "fit.log")
        running.append(fit)
        assert fit.wait(300) == 0, (tmp_path / "fit.log").read_text()
        assert "2 workers of" in (tmp_path / "fit.log").read_text()
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(60)
    assert list(store.glob("tables/*/obsm/X_inspire"))
