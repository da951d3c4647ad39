"""Real-looking stores with known truth."""

from atlasnmf.simulate.embryo import Embryo, SpotBlock, plan_embryo, simulate_embryo, slice_blocks

__all__ = ["Embryo", "SpotBlock", "plan_embryo", "simulate_embryo", "slice_blocks"]
