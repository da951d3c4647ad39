import subprocess
import sys

import numpy as np

from atlasnmf.plots.style import category_colours


def test_the_first_colours_differ_for_every_eye():
    """No two of the first eight are close in lightness and hue at once, nor for red-green blindness."""
    colours = np.array(category_colours(8))
    deuteranope = colours @ np.array([[0.625, 0.70, 0.0], [0.375, 0.30, 0.30], [0.0, 0.0, 0.70]])
    for seen in (colours, deuteranope):
        gaps = np.linalg.norm(seen[:, None] - seen[None], axis=2) + np.eye(8)
        assert gaps.min() > 0.1


def test_importing_plots_loads_no_matplotlib_and_changes_nothing():
    script = "import sys, atlasnmf.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
