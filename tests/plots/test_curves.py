import numpy as np
import pandas as pd
import pytest

from atlasnmf import plots
from atlasnmf.errors import BadInput, BadOption

HISTORY = {"step": [0, 10, 20], "loss": [3.0, 2.0, 1.5], "gan": [0.1, 0.2, 0.1]}


@pytest.mark.parametrize(
    "source",
    [
        HISTORY,
        pd.DataFrame(HISTORY),
        [dict(zip(HISTORY, row, strict=True)) for row in zip(*HISTORY.values(), strict=True)],
    ],
)
def test_a_panel_a_figure(source):
    axes = plots.history(source)
    assert [axis.get_title() for axis in axes] == ["loss", "gan"]
    for axis in axes:
        np.testing.assert_array_equal(axis.lines[0].get_xdata(), HISTORY["step"])
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), HISTORY[axis.get_title()])


def test_the_history_of_a_stored_result(an_atlas):
    (axis,) = plots.history(an_atlas(), "inspire")
    assert axis.get_title() == "loss"
    assert axis.get_xlabel() == "step"
    with pytest.raises(BadInput, match="no result with a history 'stanmf'"):
        plots.history(an_atlas(), "stanmf")


def test_chosen_figures_and_running_means():
    (axis,) = plots.history(HISTORY, metrics=["gan"], smooth=2)
    np.testing.assert_allclose(axis.lines[1].get_ydata(), [0.15, 0.15])
    np.testing.assert_array_equal(axis.lines[1].get_xdata(), [10, 20])
    with pytest.raises(BadOption, match="did you mean 'loss'"):
        plots.history(HISTORY, metrics=["los"])
    with pytest.raises(BadInput, match="no figures"):
        plots.history({"step": [1]})


def test_gaps_and_text_do_no_harm():
    axes = plots.history([{"loss": 1.0, "phase": "warm"}, {"loss": 0.5, "phase": "run", "late": 2.0}])
    assert [axis.get_title() for axis in axes] == ["loss", "late"]
    np.testing.assert_array_equal(axes[1].lines[0].get_ydata(), [np.nan, 2.0])


def test_own_axes_are_drawn_on():
    import matplotlib.pyplot as plt

    _, given = plt.subplots(1, 2)
    assert plots.history(HISTORY, axes=given).tolist() == given.tolist()
    with pytest.raises(BadOption, match="one per figure"):
        plots.history(HISTORY, axes=given[:1])
