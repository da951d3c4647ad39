"""The report as a browser shows it; skipped where there is none."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess

import pytest
from fitted_store import a_store

from atlasnmf.plots.report import write_report

#: Frames of a phone's and of a desk's width look at the page and say what they see.
_PROBE = """<!doctype html><meta charset="utf-8"><title>probe</title><pre id="out">not yet</pre>
<iframe id="phone" src="{page}" style="width:390px;height:800px;border:0"></iframe>
<iframe id="desk" src="{page}" style="width:1280px;height:800px;border:0"></iframe>
<script>
const seen = {{}};
function look(frame) {{
  const page = frame.contentDocument;
  seen[frame.id] = {{
    title: page.title,
    width: frame.clientWidth,
    needed: page.documentElement.scrollWidth,
    images: page.images.length,
    broken: [...page.images].filter(image => !image.complete || !image.naturalWidth).length,
    lost: [...page.querySelectorAll("a")].filter(a => !page.getElementById(a.hash.slice(1))).length,
  }};
  document.getElementById("out").textContent = JSON.stringify(seen);
}}
for (const frame of document.querySelectorAll("iframe")) frame.addEventListener("load", () => look(frame));
</script>"""


def _browser() -> str:
    named = os.environ.get("ATLASNMF_BROWSER")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = named or next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("no headless browser; put chromium on PATH or name it by ATLASNMF_BROWSER")
    return found


def _opened(browser, address, *flags):
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=20000", *flags, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.browser
def test_a_browser_opens_it_on_a_desk_and_on_a_phone(tmp_path):
    browser = _browser()
    a_store(tmp_path / "atlas.zarr", n_factors=12)
    page = write_report(tmp_path / "atlas.zarr", tmp_path / "report.html")
    probe = tmp_path / "probe.html"
    probe.write_text(_PROBE.format(page=page.as_uri()))
    run = _opened(browser, probe.as_uri(), "--dump-dom")
    seen = json.loads(html.unescape(re.search(r'<pre id="out">(.*?)</pre>', run.stdout, re.S)[1]))
    assert set(seen) == {"phone", "desk"}
    for frame in seen.values():
        assert frame["title"] == "atlas.zarr: atlasnmf report"
        assert frame["needed"] <= frame["width"]
        assert frame["images"] > 12
        assert frame["broken"] == frame["lost"] == 0
    assert "CONSOLE" not in run.stderr


@pytest.mark.browser
def test_it_prints(tmp_path):
    browser = _browser()
    a_store(tmp_path / "atlas.zarr")
    page = write_report(tmp_path / "atlas.zarr", tmp_path / "report.html")
    _opened(browser, page.as_uri(), f"--print-to-pdf={tmp_path / 'report.pdf'}")
    pdf = (tmp_path / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) < 20
