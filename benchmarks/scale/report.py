"""Cost of the report of a fitted store, and of one factor map, each in a fresh process.

python benchmarks/scale/report.py STORE.zarr --key inspire
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from processes import atlasnmf, machine, measure

_MAP = """
import sys, matplotlib
matplotlib.use("Agg")
import atlasnmf as an
axes = an.pl.factors(sys.argv[1], sys.argv[2], factors=[0])
axes[0, 0].figure.savefig(sys.argv[3])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--key", default="inspire")
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        cost = measure(atlasnmf("report", arguments.store, "-o", str(page)))
        size = page.stat().st_size / 1e6
        spent = f"{cost.wall_s:.1f} s ({cost.cpu_s:.1f} s of processor)"
        print(f"report: {spent}, peak {cost.peak_bytes / 1e9:.2f} GB, {size:.1f} MB")
        picture = str(Path(folder, "map.png"))
        cost = measure([sys.executable, "-W", "ignore", "-c", _MAP, arguments.store, arguments.key, picture])
        print(f"map, imports and saving included: {cost.wall_s:.1f} s ({cost.cpu_s:.1f} s of processor)")


if __name__ == "__main__":
    main()
