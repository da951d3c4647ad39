"""Several hosts: network namespaces with their own addresses; one is cut off in the middle of a training."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from clusters import BIN, ENVIRONMENT, INSPIRE, begin, ended, results, run, same, steps_done, until

pytestmark = pytest.mark.slow

WORKERS = ("one", "two", "three")


def ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)


def why_not() -> str | None:
    """Say why this machine has no namespaces; None when it has."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and the program ip"
    name = f"atlas{uuid.uuid4().hex[:6]}"
    made = ip("netns", "add", name)
    ip("netns", "delete", name)
    return None if made.returncode == 0 else f"no network namespaces here: {made.stderr.strip()}"


@dataclass
class Hosts:
    """A head and workers, each in a namespace, joined by a bridge of the head's."""

    folder: Path
    tag: str = field(default_factory=lambda: uuid.uuid4().hex[:5])
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def space(self, name: str) -> str:
        return f"a{self.tag}-{name}"

    def build(self) -> None:
        self._ip("netns", "add", self.space("head"))
        head = ("-n", self.space("head"))
        self._ip(*head, "link", "add", "bridge", "type", "bridge")
        self._ip(*head, "addr", "add", "10.77.0.1/24", "dev", "bridge")
        for link in ("bridge", "lo"):
            self._ip(*head, "link", "set", link, "up")
        for at, name in enumerate(WORKERS, 2):
            own = self.space(name)
            self._ip("netns", "add", own)
            self._ip(*head, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", own)
            self._ip(*head, "link", "set", f"to-{name}", "master", "bridge", "up")
            self._ip("-n", own, "addr", "add", f"10.77.0.{at}/24", "dev", "eth0")
            for link in ("eth0", "lo"):
                self._ip("-n", own, "link", "set", link, "up")

    def _ip(self, *arguments: str) -> None:
        done = ip(*arguments)
        if done.returncode:
            pytest.skip(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

    def start(self, name: str, *dask: str) -> None:
        command = ["ip", "netns", "exec", self.space(name), str(BIN / "dask"), dask[0], "--no-dashboard"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*command, *dask[1:]], stdout=log, stderr=log, env=ENVIRONMENT, cwd=self.folder
            )

    def cut_off(self, name: str) -> None:
        self._ip("-n", self.space("head"), "link", "set", f"to-{name}", "down")

    def clear(self) -> None:
        import psutil

        for process in self.processes.values():
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait(30)
        for name in ("head", *WORKERS):
            ip("netns", "delete", self.space(name))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    made = Hosts(tmp_path)
    try:
        made.build()
        made.start("head", "scheduler", "--host", "10.77.0.1", "--port", "8786")
        for at, name in enumerate(WORKERS, 2):
            options = ("--host", f"10.77.0.{at}", "--nthreads", "1", "--memory-limit", "0", "--name", name)
            local = ("--local-directory", str(tmp_path / name))
            made.start(name, "worker", "tcp://10.77.0.1:8786", *options, *local)
        yield made
    finally:
        made.clear()


def test_a_host_is_cut_off_and_another_takes_its_place(hosts: Hosts, tmp_path: Path) -> None:
    clean = tmp_path / "clean.zarr"
    shape = ("--n-spots", "3000", "--n-slices", "2", "--n-genes", "300")
    assert run("simulate", "embryo", str(clean), *shape).returncode == 0
    stores = {name: Path(shutil.copytree(clean, tmp_path / f"{name}.zarr")) for name in ("whole", "cut")}
    fitted = run("fit", INSPIRE[0], str(stores["whole"]), *INSPIRE[1:], "--workers", "2")
    assert fitted.returncode == 0, fitted.stderr
    log = tmp_path / "head.log"
    until(lambda: log.read_text().count("Register worker") == len(WORKERS))
    client = ("ip", "netns", "exec", hosts.space("head"))
    cluster = ("--scheduler", "tcp://10.77.0.1:8786", "--train-workers", "2")
    fitting = begin("fit", INSPIRE[0], str(stores["cut"]), *INSPIRE[1:-1], "5", *cluster, inside=client)
    until(lambda: steps_done(stores["cut"]) >= 30)
    hosts.cut_off("two")
    start = time.monotonic()
    code, said = ended(fitting)
    assert code == 0, said
    assert "does not answer" in said
    assert time.monotonic() - start < 200
    same(stores["cut"], "inspire", results(stores["whole"], "inspire"))
