"""The command line: one JSON object, configuration files, refusals, exit codes, no traces."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zarr
from small_stores import (
    assert_same_bits,
    build,
    call,
    fit_options,
    make_table,
    ok,
    refused,
    results,
    tree_hash,
)

from atlasnmf import pipeline
from atlasnmf.progress import Bars, Lines

Copy = Callable[..., Path]
FIT = fit_options(steps=3)


def test_fit_json_is_one_object_with_quality_beside_the_baseline(copy: Copy) -> None:
    store = copy()
    record = json.loads(ok("fit", "inspire", str(store), *FIT, "--labels", "region", "--json"))
    assert record.keys() >= {"model", "table results", "seconds", "peak_bytes", "quality", "stages", "loss"}
    assert record["model"] == "inspire"
    keys = ["X_inspire", "inspire_factors", "inspire_discriminator", "inspire_loadings", "inspire"]
    assert record["table results"] == {"slice_0": keys, "slice_1": keys}
    for quality in (record["quality"], record["quality"]["baseline"]):
        assert -1 <= quality["ari"] <= 1
        assert 0 <= quality["nmi"] <= 1
        assert -1 <= quality["asw"] <= 1
        assert [row["slice"] for row in quality["slices"]] == ["slice_0", "slice_1"]
    assert record["peak_bytes"] > 100e6


def test_estimate_and_dry_run_leave_no_trace(copy: Copy, fitted: Path, tmp_path: Path) -> None:
    store = copy()
    before = tree_hash(tmp_path)
    record = json.loads(ok("estimate", "inspire", str(store), *FIT, "--json"))
    assert record["n_spots"] == 440
    assert record["memory_bytes"] > 6e8
    assert record["free_disk_bytes"] > record["disk_bytes"] > 0
    assert "memory" in ok("fit", "inspire", str(store), *FIT, "--dry-run")
    assert tree_hash(tmp_path) == before
    # a dry run refuses what the fit would refuse; an estimate only tells the sizes
    assert "--overwrite" in refused("fit", "inspire", str(fitted), *FIT, "--dry-run")
    assert json.loads(ok("estimate", "inspire", str(fitted), *FIT, "--json"))["model"] == "inspire"


def test_prepare_info_and_resume_json(copy: Copy) -> None:
    store = copy()
    record = json.loads(ok("prepare", str(store), "--json", "--workers", "1"))
    assert record["slices"] == {"slice_0": 220, "slice_1": 220}
    assert record["stages"].keys() >= {"survey", "counts"}
    info = json.loads(ok("info", str(store), "--json"))
    assert info["n_spots"] == 440
    assert "slice_1" in ok("info", str(store))


def test_config_gives_options_and_flags_win(copy: Copy, tmp_path: Path) -> None:
    store, config = copy(), tmp_path / "run.toml"
    config.write_text(
        'json = true\nseed = 5\n[fit]\nn-factors = 3\nsteps = 2\nhidden = 16\nencoder = "lgcn"\n'
    )
    out = ok("fit", "inspire", str(store), "--config", str(config), "--n-factors", "4", "--batch-spots", "32")
    assert json.loads(out)["model"] == "inspire"
    uns = zarr.open_group(str(store), mode="r")["tables/slice_0/uns/inspire"]
    assert int(uns["seed"][()]) == 5
    assert int(uns["params/steps"][()]) == 2
    assert int(uns["params/n_factors"][()]) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n-facotrs = 3", ("n_facotrs", "n_factors")),
        ("steps = ", ("not TOML",)),
        ("steps = 'many'", ("--steps", "many")),
        ("preset = 'quick'", ("quick", "published")),
        ("tables = ['slice_0', 'slice_9']", ("slice_9",)),
    ],
)
def test_bad_configuration_is_refused(clean: Path, tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    config = tmp_path / "run.toml"
    config.write_text(text)
    line = refused("fit", "inspire", str(clean), "--config", str(config), "--dry-run")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "inspyre", "STORE"], ("inspyre", "did you mean inspire?")),
        (["fit", "inspire"], ("store",)),
        (["fit", "inspire", "STORE", "--n-facotrs", "3"], ("--n-facotrs", "--n-factors")),
        (["fit", "inspire", "STORE", "--steps", "-1"], ("--steps", "-1")),
        (["fit", "inspire", "STORE", "--device", "tpu"], ("--device", "cuda")),
        (["fit", "inspire", "STORE", "--device", "cuda", "--dry-run"], ("--device", "cuda")),
        (["fit", "inspire", "STORE", "--config", "none.toml"], ("none.toml",)),
        (["fit", "inspire", "STORE", "--labels", "regoin"], ("regoin", "region")),
        (["fit", "inspire", "STORE", "--key-added", "a/b"], ("a/b",)),
        (["fit", "inspire", "STORE", "--radius", "2", "--n-neighbors", "4"], ("not both",)),
        (["fit", "inspire", "STORE", "--tables", "slice_0"], ("1 slice", "--slice-key")),
        (["estimate", "inspire", "STORE", "--dry-run"], ("--dry-run",)),
        (["prepare", "STORE", "--steps", "4"], ("--steps",)),
        (["resume", "STORE"], ("nothing to resume",)),
        (["resume", "none.zarr"], ("none.zarr",)),
        (["info", "none.zarr"], ("none.zarr",)),
        (["report", "STORE"], ("no results",)),
        (["ingest", "none.h5ad", "--out", "x.zarr"], ("none.h5ad",)),
        (["simulate", "embryo", "x.zarr", "--n-spots", "0"], ("--n-spots",)),
        (["nothing"], ("nothing",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused_with_exit_code_2(
    clean: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: tuple[str, ...],
) -> None:
    if "cuda" in arguments:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    before = tree_hash(clean.parent)
    line = refused(*[str(clean) if word == "STORE" else word for word in arguments])
    for word in words:
        assert word in line
    assert tree_hash(clean.parent) == before
    assert not list(tmp_path.iterdir())


def test_a_refused_fit_leaves_the_interrupted_one_to_resume(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlasnmf import pipeline
    from atlasnmf.store.working import WorkingCopy

    store = copy()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.fitting, "loader_for", _ctrl_c)
        code, _, err = call("fit", "inspire", str(store), *FIT)
    assert code == 3
    assert f"atlasnmf resume {store}" in err
    line = refused("fit", "inspire", str(store), *FIT, "--min-spots", "1000")
    assert "usable" in line
    noted = WorkingCopy.find(store).ledger.interrupted_fit()
    assert noted["options"]["prepare"]["min_spots"] == 3
    ok("resume", str(store))
    assert "nothing to resume" in refused("resume", str(store))


def test_fits_of_other_slices_of_a_store_stand_beside_each_other(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlasnmf import load_fit, pipeline

    store = copy()
    ok("fit", "inspire", str(store), *FIT)
    few = ["--ranks", "2-3", "--replicates", "2", "--max-iterations", "5", "--min-spots", "3"]
    turned = ["--slices", "slice_1,slice_0", "--key-added", "turned"]
    with monkeypatch.context() as patch:
        patch.setattr(pipeline.fitting, "loader_for", _ctrl_c)
        assert call("fit", "inspire", str(store), *FIT, *turned)[0] == 3
    assert "resume" in ok("info", str(store))
    ok("resume", str(store))
    assert "fit inspire of slice_1, slice_0" in ok("info", str(store))
    ok("fit", "stanmf", str(store), *few)
    assert load_fit(store, "stanmf").prepared.atlas.only is None
    assert load_fit(store, "inspire").prepared.atlas.only == ("slice_1", "slice_0")
    assert "nothing to resume" in refused("resume", str(store))


def _ctrl_c(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_help_without_a_command() -> None:
    for arguments in ([], ["fit"], ["simulate"], ["fit", "inspire", "--help"]):
        code, out, _ = call(*arguments)
        assert code == 0
        assert "Usage" in out


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, clean: Path) -> None:
    def broken(*arguments: object, **named: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("atlasnmf.pipeline.info", broken)
    from atlasnmf import cli

    with pytest.raises(ZeroDivisionError):
        cli.main(["info", str(clean)])


def test_a_folder_that_cannot_be_written(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/store.zarr.atlasnmf")

    monkeypatch.setattr("atlasnmf.store.working.WorkingCopy._begin", denied)
    line = refused("prepare", str(copy()))
    assert "/data/store.zarr.atlasnmf" in line
    assert "--work-dir" in line


def test_ctrl_c_ends_with_exit_code_3_and_names_the_resume_command(copy: Copy) -> None:
    store = copy("stopped store.zarr")
    options = fit_options(steps=4000)
    process = subprocess.Popen(
        [sys.executable, "-m", "atlasnmf.cli", "fit", "inspire", str(store), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    watchdog = threading.Timer(120, process.kill)  # one that hangs ends here, with another exit code
    watchdog.start()
    said = []
    for line in process.stderr:
        said.append(line)
        if "fit inspire" in line:
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    watchdog.cancel()
    said.append(rest)
    assert process.returncode == 3, said
    assert "Traceback" not in rest
    step = re.search(r"interrupted after step (\d+)", rest)
    assert step is not None, rest
    assert 0 < int(step[1]) < 4000
    assert f"continue with: atlasnmf resume '{store}'" in rest
    assert not results(store)


def test_report_is_self_contained(fitted: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert str(page) in ok("report", str(fitted), "-o", str(page))
    html = page.read_text()
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//", html)
    assert "<script" not in html
    pictures = re.findall(r"<img[^>]+src=\"([^\"]{30})", html)
    assert len(pictures) >= 4
    assert all(picture.startswith("data:image/png;base64,") for picture in pictures)
    assert "no folder" in refused("report", str(fitted), "-o", str(tmp_path / "none" / "report.html"))


def test_progress_without_a_total_and_text_that_looks_like_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    monkeypatch.setattr("atlasnmf.progress._SECONDS_BETWEEN_LINES", 0.0)
    stream = io.StringIO()
    with Lines(stream).stage("count", None, "rows") as advance:
        advance(1200)
    assert "count: 1,200 rows" in stream.getvalue()
    stream = io.StringIO()
    bars = Bars(Console(file=stream, width=120))
    with bars.stage("outer", 2) as outer, bars.stage("inner", None) as inner:
        inner(1)
        outer(1)
        bars.note("obsm[spatial] is used")
        bars.warn("obs[/stage] is odd")
    assert "obsm[spatial] is used" in stream.getvalue()
    assert "warning: obs[/stage] is odd" in stream.getvalue()


def test_ingest_and_simulate(tmp_path: Path) -> None:
    build(tmp_path, make_table(0), make_table(1))
    out = tmp_path / "two.zarr"
    files = [str(tmp_path / f"slice_{i}.h5ad") for i in range(2)]
    record = json.loads(ok("ingest", *files, "--out", str(out), "--json"))
    assert record == {"store": str(out), "files": files}
    assert "exists" in refused("ingest", *files, "--out", str(out))
    size = ["--n-spots", "60", "--n-slices", "2", "--n-genes", "40", "--n-factors", "3"]
    for name in ("a.zarr", "b.zarr"):
        assert "60 spots" in ok("simulate", "embryo", str(tmp_path / name), *size)
    assert tree_hash(tmp_path / "a.zarr") == tree_hash(tmp_path / "b.zarr")


def test_the_recorded_command_does_the_fit_again(fitted: Path, copy: Copy) -> None:
    import shlex

    command = str(zarr.open_group(str(fitted), mode="r")["tables/slice_0/uns/inspire/command"][()])
    words = shlex.split(command)
    assert words[:4] == ["atlasnmf", "fit", "inspire", str(fitted)]
    store = copy()
    ok("fit", "inspire", str(store), *words[4:])
    assert_same_bits(results(store), results(fitted))


def test_help_names_defaults() -> None:
    """Typer draws help through rich, which takes square brackets for markup and leaves them out."""
    shown = subprocess.run(
        [sys.executable, "-m", "atlasnmf.cli", "fit", "stanmf", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"COLUMNS": "220"},
    ).stdout
    plain = " ".join(shown.replace("│", " ").split())
    assert "(default 8-30)" in plain
    assert "(default 20)" in plain


def test_sigterm_ends_a_command_as_ctrl_c_does(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm and Kubernetes end jobs so; what a job leaves must be what resume goes on with."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(pipeline, "info", lambda *args, **options: signal.raise_signal(signal.SIGTERM))
    code, _, said = call("info", str(clean))
    assert (code, "stopped" in said) == (3, True)
    assert signal.getsignal(signal.SIGTERM) is before
