"""Checkpoints: complete or absent, and never another fit's."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from atlasnmf.errors import BadInput
from atlasnmf.events import Silent
from atlasnmf.train import Checkpoint, fit_key


class Plain:
    """A method whose state is its packed form."""

    name = "plain"

    def pack(self, state):
        return state

    def unpack(self, tensors, scalars):
        return tensors, scalars


STATE = (
    {
        "float64": np.array([[1 / 3, -0.0], [np.nan, np.inf]]),
        "float32": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1],
        "float16": np.ones(3, np.float16),
        "int64": np.array([2**62]),
        "uint16": np.array([65535], np.uint16),
        "flags": np.array([True, False]),
        "scalar": np.array(0.1),
        "empty": np.zeros((0, 4), np.float32),
    },
    {"step": 3, "lr": 0.1 + 0.2, "names": ["a", "b"], "nested": {"deep": None}, "bad": float("inf")},
)


class Listener(Silent):
    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def test_arrays_and_scalars_come_back_to_the_same_bits(tmp_path):
    Checkpoint(tmp_path / "deep" / "er", "k").save(Plain(), STATE, 7)
    (tensors, scalars), step = Checkpoint(tmp_path / "deep" / "er", "k").restore(Plain())
    assert step == 7
    assert scalars == STATE[1]
    assert tensors.keys() == STATE[0].keys()
    for name, array in STATE[0].items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].shape == array.shape
        assert tensors[name].tobytes() == array.tobytes()
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["plain-k.safetensors"]


def test_nothing_to_restore(tmp_path):
    checkpoint = Checkpoint(tmp_path / "absent", "k")
    assert checkpoint.restore(Plain()) is None
    assert checkpoint.step("plain") is None
    assert not (tmp_path / "absent").exists()


def refused(checkpoint_path, key="k"):
    listener = Listener()
    checkpoint = Checkpoint(checkpoint_path.parent, key, events=listener)
    assert checkpoint.restore(Plain()) is None
    assert checkpoint.step("plain") is None
    (message,) = listener.warnings
    assert "\n" not in message
    assert str(checkpoint_path) in message
    return message


def test_a_torn_file_is_refused_at_any_length(tmp_path):
    checkpoint = Checkpoint(tmp_path, "k")
    checkpoint.save(Plain(), STATE, 1)
    path = checkpoint.path("plain")
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        assert "damaged" in refused(path) or "not a checkpoint" in refused(path)


def test_an_altered_byte_is_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path, "k")
    checkpoint.save(Plain(), STATE, 1)
    path = checkpoint.path("plain")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert Checkpoint(tmp_path, "k").step("plain") == 1  # the header alone cannot tell
    assert "damaged" in _warning(path)


def _warning(path):
    listener = Listener()
    assert Checkpoint(path.parent, "k", events=listener).restore(Plain()) is None
    return listener.warnings[0]


def test_foreign_files_are_refused(tmp_path):
    path = Checkpoint(tmp_path, "k").path("plain")
    save_file({"weights": np.ones(3)}, path)
    assert "not a checkpoint of atlasnmf" in refused(path)
    save_file({"weights": np.ones(3)}, path, metadata={"atlasnmf": '{"format": 99}'})
    assert "format 99" in refused(path)


def test_other_parameters_are_never_resumed(tmp_path):
    ours, theirs = fit_key({"seed": 0}), fit_key({"seed": 1})
    Checkpoint(tmp_path, theirs).save(Plain(), STATE, 1)
    assert Checkpoint(tmp_path, ours).restore(Plain()) is None
    # Not even under our name.
    Checkpoint(tmp_path, theirs).path("plain").rename(Checkpoint(tmp_path, ours).path("plain"))
    assert "other parameters" in refused(Checkpoint(tmp_path, ours).path("plain"), ours)


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, "k")
    checkpoint.save(Plain(), STATE, 1)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadInput, match="No space left on device; free some space"):
        checkpoint.save(Plain(), STATE, 2)
    monkeypatch.undo()
    assert Checkpoint(tmp_path, "k").step("plain") == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_unserialisable_scalars_are_a_bug(tmp_path):
    with pytest.raises(TypeError):
        Checkpoint(tmp_path, "k").save(Plain(), ({}, {"what": object()}), 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("saving_s", "next_s"), [(0.5, 30), (4.0, 80)])
def test_time_makes_a_save_due_and_large_states_are_saved_less_often(tmp_path, monkeypatch, saving_s, next_s):
    now = [0.0]
    monkeypatch.setattr("atlasnmf.train.checkpoint.time", SimpleNamespace(monotonic=lambda: now[0]))

    class Slow(Plain):
        def pack(self, state):
            now[0] += saving_s
            return STATE

    checkpoint = Checkpoint(tmp_path, "k", every_steps=10**9, every_s=30.0)
    for first, later in ((29.9, 30.0), (next_s - 0.1, next_s)):
        began = now[0]
        now[0] = began + first
        assert not checkpoint.due(5)
        now[0] = began + later
        assert checkpoint.due(5)
        checkpoint.save(Slow(), STATE, int(now[0]))
