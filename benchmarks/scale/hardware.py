"""What `atlasnmf estimate` says of atlases of several sizes: memory and disk, nothing is fitted.

python benchmarks/scale/hardware.py STORE.zarr [STORE.zarr ...]
"""

from __future__ import annotations

import json
import subprocess
import sys

from processes import atlasnmf, machine

FITS = {
    "inspire, 40 factors": ["inspire", "--n-factors", "40"],
    "stanmf, ranks 8-16 x 10": ["stanmf", "--ranks", "8-16", "--replicates", "10"],
}
BUDGETS = ["1GB", "2GB", "4GB", "8GB"]


def estimated(store: str, fit: list[str], budget: str) -> tuple[int, int] | None:
    """Return bytes of memory and of disk, or None where the budget is refused."""
    model, *options = fit
    command = atlasnmf("estimate", model, store, *options, "--memory-budget", budget)
    run = subprocess.run(
        [*command, "--key-added", "never", "--json"], capture_output=True, text=True, check=False
    )
    if run.returncode == 2 and "budget" in run.stderr:
        return None
    if run.returncode:
        raise SystemExit(run.stderr)
    found = json.loads(run.stdout)
    return found["memory_bytes"], found["disk_bytes"]


def main() -> None:
    print(machine())
    print(f"| spots | fit | {' | '.join(f'within {budget}' for budget in BUDGETS)} | disk |")
    print("|" + "---|" * (len(BUDGETS) + 3))
    for store in sys.argv[1:]:
        info = json.loads(
            subprocess.run(atlasnmf("info", store, "--json"), capture_output=True, check=True).stdout
        )
        for name, fit in FITS.items():
            found = [estimated(store, fit, budget) for budget in BUDGETS]
            memory = ["refused" if one is None else f"{one[0] / 1e9:.2f} GB" for one in found]
            disk = next((one[1] for one in found if one is not None), None)
            size = "" if disk is None else f"{disk / 1e9:.2f} GB"
            print(f"| {info['n_spots']:,} | {name} | {' | '.join(memory)} | {size} |", flush=True)


if __name__ == "__main__":
    main()
