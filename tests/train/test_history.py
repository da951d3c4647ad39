"""The history: exact, cut to the step that is resumed, unharmed by a torn line."""

from __future__ import annotations

import json

import numpy as np
import pytest

from atlasnmf.errors import BadInput
from atlasnmf.events import Silent
from atlasnmf.train import History


class Listener(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def written(path, n_steps, **more):
    history = History(path)
    history.start(0)
    for step in range(1, n_steps + 1):
        history.on_step(step, {"loss": 1 / step, **{k: v for k, v in more.items() if step % 2 == 0}})
    history.close()
    return history


def test_in_memory():
    history = History()
    history.start(0)
    history.on_step(1, {"loss": 2.0})
    history.on_step(2, {"loss": np.float32(1.0), "margin": 5})
    history.commit()
    history.close()
    arrays = history.arrays()
    np.testing.assert_array_equal(arrays["step"], [1, 2])
    np.testing.assert_array_equal(arrays["loss"], [2.0, 1.0])
    np.testing.assert_array_equal(arrays["margin"], [np.nan, 5.0])
    assert np.isnan(history.column("absent")).all()


def test_lines_are_strict_json_and_come_back_exactly(tmp_path):
    path = tmp_path / "sub" / "metrics.jsonl"
    before = written(path, 6, odd=float("nan"), big=float("inf"))

    def never(text):
        raise AssertionError(text)

    records = [json.loads(line, parse_constant=never) for line in path.read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    after = History(path)
    after.start(6)
    after.close()
    for key, values in before.arrays().items():
        np.testing.assert_array_equal(after.arrays()[key], values)


def test_a_resume_drops_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path, 9)
    with path.open("a") as file:
        file.write('{"step": 10, "lo')
    history = History(path)
    history.start(4)
    history.on_step(5, {"loss": 7.0})
    history.close()
    np.testing.assert_array_equal(history.column("loss"), [1, 1 / 2, 1 / 3, 1 / 4, 7.0])
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_a_new_run_starts_a_new_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path, 9)
    history = History(path)
    history.start(0)
    history.close()
    assert path.read_text() == ""
    assert history.n_steps == 0


@pytest.mark.parametrize("garbage", ["", "nonsense\n", '[1]\n{"step": "x"}\n{"loss": 1}\n3\n'])
def test_missing_lines_are_told_and_leave_gaps(tmp_path, garbage):
    path, listener = tmp_path / "metrics.jsonl", Listener()
    path.write_text(garbage)
    history = History(path, events=listener)
    history.start(3)
    history.on_step(4, {"loss": 1.0})
    history.close()
    np.testing.assert_array_equal(history.column("loss"), [np.nan] * 3 + [1.0])
    assert "0 of the 3 steps" in listener.warnings[0]


def test_a_history_in_memory_says_what_it_lost():
    listener = Listener()
    history = History(events=listener)
    history.start(3)
    assert history.n_steps == 3
    assert "first 3 steps" in listener.warnings[0]


def test_other_ranks_restore_and_leave_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path, 9)
    before = path.read_bytes()
    history = History(path, writes=False)
    history.start(4)
    history.on_step(5, {"loss": 7.0})
    history.commit()
    history.close()
    np.testing.assert_array_equal(history.column("loss"), [1, 1 / 2, 1 / 3, 1 / 4, 7.0])
    assert path.read_bytes() == before


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"cannot write .*metrics\.jsonl"):
        History(tmp_path / "file" / "metrics.jsonl").start(0)
