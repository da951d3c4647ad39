"""TLS between scheduler, workers and client: with the certificates and the configuration of deploy/."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from clusters import ENVIRONMENT, STANMF, Cluster, free_port, results, run, same, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made by openssl"),
]

TLS = Path(__file__).parents[2] / "deploy" / "tls"


class Encrypted(Cluster):
    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"


def test_fit_over_tls_and_a_stranger_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "certificates"
    subprocess.run([TLS / "make_certificates.sh", made], check=True, capture_output=True)
    assert all(path.stat().st_mode & 0o077 == 0 for path in made.glob("*.key"))
    settings = tmp_path / "dask"
    settings.mkdir()
    text = (TLS / "dask.yaml").read_text().replace("/etc/atlasnmf/tls", str(made))
    (settings / "dask.yaml").write_text(text)

    store, alone = tmp_path / "store.zarr", tmp_path / "alone.zarr"
    shape = ("--n-spots", "1500", "--n-slices", "2", "--n-genes", "200")
    assert run("simulate", "embryo", str(store), *shape).returncode == 0
    shutil.copytree(store, alone)
    options = (*STANMF[1:], "--max-iterations", "20")
    assert run("fit", "stanmf", str(alone), *options).returncode == 0

    cluster = Encrypted(tmp_path, free_port())
    try:
        with monkeypatch.context() as patched:
            patched.setitem(ENVIRONMENT, "DASK_CONFIG", str(settings))
            cluster.start_scheduler("--protocol", "tls")
            cluster.start_worker("one", "--protocol", "tls")
            cluster.start_worker("two", "--protocol", "tls")
            log = tmp_path / "scheduler.log"
            until(lambda: log.read_text().count("Register worker") == 2)
            fitted = run("fit", "stanmf", str(store), *options, "--scheduler", cluster.address)
        assert fitted.returncode == 0, fitted.stderr
        assert f"2 workers of {cluster.address}" in fitted.stderr
        same(store, "stanmf", results(alone, "stanmf"))
        # without the certificates nobody is let in, whether told of TLS or not
        for address, message in (
            (cluster.address, "names no TLS certificates"),
            (cluster.address.replace("tls", "tcp"), "no Dask scheduler answers"),
        ):
            stranger = run("fit", "stanmf", str(alone), "--overwrite", "--scheduler", address)
            assert stranger.returncode == 2
            assert f"error: --scheduler {address}" in stranger.stderr
            assert message in stranger.stderr
    finally:
        cluster.stop()
