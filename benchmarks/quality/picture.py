"""Draw the picture of the README from a fitted store: regions, and the factors that follow them.

usage: python benchmarks/quality/picture.py STORE.zarr --labels layer -o docs/_static/result.png
"""

from __future__ import annotations

import argparse

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

import atlasnmf as an
from atlasnmf.metrics import label_codes
from atlasnmf.store.atlas import Atlas


def strongest(atlas: Atlas, key: str, labels: str, n_factors: int) -> list[int]:
    """Pick the factors whose mean differs most between regions, one for a region at most."""
    factors = np.concatenate([table.obsm(f"{key}_factors") for table in atlas.tables])
    codes, names = label_codes(
        np.concatenate([np.asarray(t.obs_column(labels), object) for t in atlas.tables])
    )
    known = (codes >= 0) & np.isfinite(factors).all(axis=1)
    means = np.stack([factors[known & (codes == code)].mean(axis=0) for code in range(len(names))])
    contrast = means - (means.sum(axis=0) - means) / (len(names) - 1)
    chosen: list[int] = []
    for region in np.argsort(-contrast.max(axis=1)):
        best = int(np.argmax(contrast[region]))
        if best not in chosen:
            chosen.append(best)
    return chosen[:n_factors]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--key", default="inspire")
    parser.add_argument("--labels", default="layer")
    parser.add_argument("--n-factors", type=int, default=5)
    parser.add_argument("-o", "--out", default="docs/_static/result.png")
    args = parser.parse_args()
    atlas = an.open_atlas(args.store)
    chosen = strongest(atlas, args.key, args.labels, args.n_factors)
    shape = atlas.n_slices, len(chosen)
    figure, axes = plt.subplots(*shape, figsize=(2.3 * shape[1], 2.3 * shape[0]), squeeze=False)
    an.pl.factors(atlas, args.key, factors=chosen, axes=axes.T)
    figure.savefig(args.out, dpi=90, bbox_inches="tight")
    print(f"{args.out}: factors {chosen}")


if __name__ == "__main__":
    main()
