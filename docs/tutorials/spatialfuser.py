# %% [markdown]
# # SpatialFuser: spots that correspond
#
# Two sections of one tissue, laid on the slide at different angles, and a piece of the second is missing.
# We look for the pairs of spots that are the same place, and for tissue that has no partner.
#
# Everything on this page is run by `python docs/tutorials/spatialfuser.py` in an empty folder. The sections
# are made by dividing the spots of one simulated slice at random, so the truth is known; the program is
# told neither angle nor shift.

# %%
from pathlib import Path

import anndata
import matplotlib
import numpy as np
import spatialdata

import atlasnmf as an

matplotlib.use("Agg")
pictures = Path("pictures")
pictures.mkdir(exist_ok=True)


def keep(axes, name, dpi=80):
    """Save the figure of some axes as a small picture."""
    figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
    figure.savefig(pictures / name, dpi=dpi, bbox_inches="tight")


an.simulate_embryo("tissue.zarr", n_spots=6000, n_slices=1, n_genes=500, n_factors=8, seed=0, overwrite=True)
(tissue,) = spatialdata.read_zarr("tissue.zarr").tables.values()
rng = np.random.default_rng(0)
place = np.asarray(tissue.obsm["spatial"])
first = rng.random(len(place)) < 0.5
# the second section has lost the lowest sixth of the tissue
second = ~first & (place[:, 1] > np.quantile(place[:, 1], 1 / 6))

angle = np.deg2rad(40)
turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
sections = {}
for name, chosen, moved in (("first", first, place), ("second", second, place @ turn + [4000.0, 1500.0])):
    section = anndata.AnnData(
        tissue.X[chosen], obs=tissue.obs[["domain"]][chosen].copy(), var=tissue.var[[]].copy()
    )
    section.obs_names = [f"{name}_{i}" for i in range(section.n_obs)]
    section.obsm["spatial"], section.obsm["true_place"] = moved[chosen], place[chosen]
    sections[name] = section
spatialdata.SpatialData(tables=sections).write("sections.zarr", overwrite=True)

# %% [markdown]
# ## Fit
#
# The sections are brought into one frame, embedded by attention over neighbours, matched by transport, and
# the embeddings are fused along the pairs.

# %%
atlas = an.open_atlas("sections.zarr")
fit = an.SpatialFuser().fit(atlas, memory_budget="2GB", labels="domain", overwrite=True)
fit.write()
atlas = an.open_atlas("sections.zarr")
keep(an.pl.registration(atlas, unit="µm"), "spatialfuser_registration.png")
keep(an.pl.matches(atlas, color="domain", n_lines=150, unit="µm"), "spatialfuser_matches.png")

# %% [markdown]
# ![Two sections over each other, before and after](pictures/spatialfuser_registration.png)
#
# ![Pairs of spots that correspond](pictures/spatialfuser_matches.png)
#
# ## What goes where, and what has no partner
#
# Labels of one section flow into those of the other along the pairs. The summary says of every label how
# many of its spots found no partner: tissue that is new or lost stands out.

# %%
keep(an.pl.label_flow(atlas, "domain"), "spatialfuser_flow.png")
summary = an.tl.match_summary("sections.zarr", "domain", overwrite=True)
print(summary[["slice", "label", "n_spots", "unmatched", "agreement"]].round(2).to_string(index=False))

# %% [markdown]
# ![Labels along the pairs](pictures/spatialfuser_flow.png)
#
# ## Is it right?
#
# Matched spots should be neighbours in the tissue that both sections come from.

# %%
pairs = spatialdata.read_zarr("sections.zarr").tables["spatialfuser_matches"].obs
pairs = pairs[pairs["passed"].astype(bool)]
one, other = (spatialdata.read_zarr("sections.zarr").tables[name] for name in ("first", "second"))
ends = {}
for end in ("source", "target"):
    of_first = pairs[f"{end}_table"].astype(str).to_numpy() == "first"
    rows = np.where(
        of_first,
        one.obs_names.get_indexer(pairs[end].astype(str)),
        other.obs_names.get_indexer(pairs[end].astype(str)),
    )
    ends[end] = np.where(
        of_first[:, None],
        one.obsm["true_place"][rows % one.n_obs],
        other.obsm["true_place"][rows % other.n_obs],
    )
apart = np.linalg.norm(ends["source"] - ends["target"], axis=1)
spacing = np.sqrt(np.ptp(place, axis=0).prod() / len(one))
print(f"{len(pairs):,} pairs; true distance {np.median(apart):.0f} µm (median), of spots {spacing:.0f} µm")
assert np.median(apart) < 5 * spacing

# %% [markdown]
# The same on the command line, and the page with all of it:
#
# ```console
# $ atlasnmf fit spatialfuser sections.zarr --labels domain
# $ atlasnmf report sections.zarr -o report.html
# ```
#
# Next: [matches in other programs](../howto/results.md).
