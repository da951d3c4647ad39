"""Real-looking stores with known truth."""

from atlasnmf.simulate.embryo import Embryo, SpotBlock, plan_embryo, simulate_embryo, slice_blocks
from atlasnmf.simulate.omics import Omics, plan_omics, simulate_omics
from atlasnmf.simulate.pair import Pair, plan_pair, simulate_pair

__all__ = [
    "Embryo",
    "Omics",
    "Pair",
    "SpotBlock",
    "plan_embryo",
    "plan_omics",
    "plan_pair",
    "simulate_embryo",
    "simulate_omics",
    "simulate_pair",
    "slice_blocks",
]
