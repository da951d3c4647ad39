import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from atlasnmf import progress
from atlasnmf.progress import Bars, Lines, spelled


def test_lines_say_rate_and_remaining_time(monkeypatch):
    clock = iter([0.0, 11.0, 30.0])
    # of this module alone: event loops of other threads ask the real one
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    out = io.StringIO()
    with Lines(out).stage("fit", 4000, "steps") as advance:
        advance(110)
    lines = [line.split(" ", 1)[1] for line in out.getvalue().splitlines()]
    assert lines == ["fit ...", "fit: 110 of 4,000 steps, 10/s, 6 min left", "fit: done in 30 s, 4 steps/s"]


def test_what_is_stopped_is_not_called_done():
    out = io.StringIO()

    def fit():
        with Lines(out).stage("fit", 10, "steps") as advance:
            advance(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit()
    assert re.search(r"fit: stopped after 0\.\d s, 3 of 10 steps done", out.getvalue())
    assert "done in" not in out.getvalue()


def test_a_bar_shows_how_fast_it_goes():
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    with Bars(console).stage("fit", 100, "steps") as advance:
        for _ in range(5):
            advance(20)
    shown = console.file.getvalue()
    assert "100/100" in shown
    assert re.search(r"[\d,.]+/(s|min)", shown)


def test_long_times_are_not_told_in_seconds():
    assert spelled(684) == "11 min"
    assert spelled(9.96) == "10.0 s"
