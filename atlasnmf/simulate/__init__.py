"""Real-looking stores with known truth."""

from atlasnmf.simulate.embryo import Embryo, SpotBlock, plan_embryo, simulate_embryo, slice_blocks
from atlasnmf.simulate.pair import Pair, plan_pair, simulate_pair

__all__ = [
    "Embryo",
    "Pair",
    "SpotBlock",
    "plan_embryo",
    "plan_pair",
    "simulate_embryo",
    "simulate_pair",
    "slice_blocks",
]
