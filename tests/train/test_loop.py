"""The loop: one run, or any chain of interrupted runs, ends with the same bits."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest
from torch_method import Autoencoder, RandomUnits, same_bits

from atlasnmf.errors import BadOption, Interrupted
from atlasnmf.train import Callback, Checkpoint, EarlyStop, History, Progress, RefuseDivergence, run

N_STEPS = 12


def sample():
    return RandomUnits(seed=9).unit(0)


def undisturbed(**options):
    method = Autoencoder(N_STEPS)
    history = History()
    return run(method, RandomUnits(), sample=sample, callbacks=[history]), history.arrays()


class KillAt(Callback):
    """Ends the run as a kill would: no state of this step is saved."""

    def __init__(self, at, error=RuntimeError):
        self.at, self.error = at, error

    def on_step(self, step, metrics):
        if step == self.at:
            raise self.error("killed")


class SignalAt(Callback):
    def __init__(self, at, number=signal.SIGINT):
        self.at, self.number = at, number

    def on_step(self, step, metrics):
        if step == self.at:
            os.kill(os.getpid(), self.number)


def test_without_checkpoint_or_callbacks():
    method = Autoencoder(3)
    state = run(method, RandomUnits(), sample=sample)
    assert state["step"] == 3


def test_the_units_may_end_first():
    state = run(Autoencoder(100), RandomUnits(length=5), sample=sample)
    assert state["step"] == 5


@pytest.mark.parametrize("at", range(1, N_STEPS + 1))
@pytest.mark.parametrize("every_steps", [1, 3, 100])
def test_killed_at_any_step_resumes_to_the_same_bits(tmp_path, at, every_steps):
    whole, figures = undisturbed()

    def attempt(*extra):
        history = History(tmp_path / "metrics.jsonl")
        checkpoint = Checkpoint(tmp_path, "k", every_steps=every_steps)
        method = Autoencoder(N_STEPS)
        state = run(method, RandomUnits(), sample=sample, checkpoint=checkpoint, callbacks=[history, *extra])
        return method, state, history

    with pytest.raises(RuntimeError, match="killed"):
        attempt(KillAt(at))
    method, state, history = attempt()
    assert same_bits(method, state, whole)
    assert method.n_inits == (0 if at > every_steps else 1)
    assert history.arrays().keys() == figures.keys()
    for key, values in figures.items():
        np.testing.assert_array_equal(history.arrays()[key], values)
    # A third run finds everything done and changes nothing.
    _, again, history = attempt()
    assert same_bits(method, again, whole)
    np.testing.assert_array_equal(history.column("loss"), figures["loss"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_finished_step(tmp_path, number):
    whole, figures = undisturbed()
    before = signal.getsignal(number)
    checkpoint = Checkpoint(tmp_path, "k", every_steps=1000)
    history = History(tmp_path / "metrics.jsonl")
    with pytest.raises(Interrupted, match="autoencoder was interrupted after step 5"):
        run(
            Autoencoder(N_STEPS),
            RandomUnits(),
            sample=sample,
            checkpoint=checkpoint,
            callbacks=[history, SignalAt(5, number)],
        )
    assert signal.getsignal(number) is before
    assert checkpoint.step("autoencoder") == 5
    method = Autoencoder(N_STEPS)
    history = History(tmp_path / "metrics.jsonl")
    state = run(
        method,
        RandomUnits(),
        sample=sample,
        checkpoint=Checkpoint(tmp_path, "k"),
        callbacks=[history],
    )
    assert same_bits(method, state, whole)
    np.testing.assert_array_equal(history.column("loss"), figures["loss"])


def test_an_interrupt_inside_a_step_is_not_saved(tmp_path):
    checkpoint = Checkpoint(tmp_path, "k", every_steps=2)
    with pytest.raises(Interrupted, match="after step 5"):
        run(
            Autoencoder(N_STEPS),
            RandomUnits(),
            sample=sample,
            checkpoint=checkpoint,
            callbacks=[KillAt(5, KeyboardInterrupt)],
        )
    assert checkpoint.step("autoencoder") == 4


def test_a_second_signal_stops_at_once(tmp_path):
    class Twice(Callback):
        def on_step(self, step, metrics):
            if step == 3:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    checkpoint = Checkpoint(tmp_path, "k", every_steps=2)
    with pytest.raises(Interrupted):
        run(Autoencoder(9), RandomUnits(), sample=sample, checkpoint=checkpoint, callbacks=[Twice()])
    assert checkpoint.step("autoencoder") == 2


def test_runs_outside_the_main_thread(tmp_path):
    states = []
    thread = threading.Thread(target=lambda: states.append(run(Autoencoder(3), RandomUnits(), sample=sample)))
    thread.start()
    thread.join()
    assert states[0]["step"] == 3


def test_the_stream_and_the_callbacks_are_closed_on_errors(tmp_path):
    units, history = RandomUnits(), History(tmp_path / "m.jsonl")
    with pytest.raises(RuntimeError):
        run(Autoencoder(), units, sample=sample, callbacks=[history, KillAt(2)])
    assert units.closed == 1
    assert history._file is None


def test_only_the_first_rank_writes(tmp_path):
    run(Autoencoder(3), RandomUnits(), sample=sample, checkpoint=Checkpoint(tmp_path, "k", writes=False))
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_state_is_refused_and_not_saved(tmp_path):
    class Diverges(Autoencoder):
        def step(self, state, unit):
            state, metrics = super().step(state, unit)
            return state, {"loss": float("nan") if state["step"] == 4 else metrics["loss"]}

    checkpoint = Checkpoint(tmp_path, "k", every_steps=1)
    with pytest.raises(BadOption, match="loss became nan at step 4; lower the learning rate"):
        run(
            Diverges(),
            RandomUnits(),
            sample=sample,
            checkpoint=checkpoint,
            callbacks=[RefuseDivergence()],
        )
    assert checkpoint.step("autoencoder") == 3


class TestEarlyStop:
    @staticmethod
    def stopped_at(losses, **options):
        history = History()
        stop = EarlyStop(history, **options)
        for step, loss in enumerate(losses, 1):
            if stop.stop():
                return step - 1
            history.on_step(step, {"loss": loss})
        return len(losses) if stop.stop() else None

    def test_a_falling_loss_goes_on(self):
        assert self.stopped_at(np.linspace(10, 1, 100), window=10) is None

    def test_a_plateau_stops_after_patience(self):
        losses = np.r_[np.linspace(10, 1, 50), np.full(100, 1.0)]
        assert self.stopped_at(losses, window=10, patience=2) == 80

    def test_negative_losses(self):
        losses = np.r_[-np.linspace(1, 10, 50), np.full(100, -10.0)]
        assert self.stopped_at(losses, window=10, patience=3) == 90
        assert self.stopped_at(-np.linspace(1, 10, 100), window=10) is None

    def test_steps_without_a_loss_count_neither_way(self):
        losses = np.where(np.arange(60) % 2, np.nan, np.linspace(10, 1, 60))
        assert self.stopped_at(losses, window=10) is None
        assert self.stopped_at(np.full(60, np.nan), window=10, patience=2) is None

    @pytest.mark.parametrize("at", [7, 19, 21, 30])
    def test_a_resumed_run_stops_at_the_same_step(self, tmp_path, at):
        def attempt(folder, *extra):
            history = History(folder / "metrics.jsonl")
            stop = EarlyStop(history, window=5, tolerance=0.2, patience=2)
            method = Autoencoder(200)
            state = run(
                method,
                RandomUnits(),
                sample=sample,
                checkpoint=Checkpoint(folder, "k", every_steps=4),
                callbacks=[history, stop, *extra],
            )
            return method, state

        method, whole = attempt(tmp_path / "whole")
        assert 5 < whole["step"] < 200
        if at <= whole["step"]:
            with pytest.raises(RuntimeError):
                attempt(tmp_path / "torn", KillAt(at))
        _, state = attempt(tmp_path / "torn")
        assert same_bits(method, state, whole)
        # Nothing moves once it has stopped.
        _, state = attempt(tmp_path / "torn")
        assert same_bits(method, state, whole)


def test_progress_tells_the_events(tmp_path):
    from contextlib import contextmanager

    from atlasnmf.events import Silent

    class Listener(Silent):
        def __init__(self):
            self.advanced, self.records, self.open = [], [], 0

        @contextmanager
        def stage(self, name, total=None, unit="spots"):
            self.open += 1
            yield self.advanced.append
            self.open -= 1

        def metrics(self, record):
            assert self.open == 1
            self.records.append(record)

    def attempt(steps, listener):
        run(
            Autoencoder(steps),
            RandomUnits(),
            sample=sample,
            checkpoint=Checkpoint(tmp_path, "k"),
            callbacks=[Progress(listener, "fit autoencoder", steps)],
        )

    first, second = Listener(), Listener()
    attempt(3, first)
    attempt(5, second)
    assert first.advanced == [1, 1, 1]
    assert second.advanced == [3, 1, 1]
    assert [record["step"] for record in second.records] == [4, 5]
    assert second.open == 0
