# %% [markdown]
# # staNMF: how many patterns, and which
#
# A volume of voxels with a hierarchy of regions, like the gene expression grid of a brain atlas. Some
# patterns were planted in it; we do not tell the program how many.
#
# Everything on this page is run by `python docs/tutorials/stanmf.py` in an empty folder.

# %%
from pathlib import Path

import matplotlib
import numpy as np

import atlasnmf as an

matplotlib.use("Agg")
pictures = Path("pictures")
pictures.mkdir(exist_ok=True)


def keep(axes, name, dpi=80):
    """Save the figure of some axes as a small picture."""
    figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
    figure.savefig(pictures / name, dpi=dpi, bbox_inches="tight")


an.simulate_volume(
    "brain.zarr", shape=(26, 20, 24), n_regions=30, n_genes=160, n_patterns=6, seed=0, overwrite=True
)
atlas = an.open_atlas("brain.zarr")
print(atlas)

# %% [markdown]
# ## Fit every rank many times
#
# Each rank is fitted to ten draws of the genes. A rank whose patterns come back alike from draw to draw is
# one the data ask for: *instability* is what two fits of a rank differ by, after their patterns are
# matched.

# %%
fit = an.StaNMF(ranks=range(3, 10), replicates=10).fit(atlas, memory_budget="2GB", overwrite=True)
fit.write()
atlas = an.open_atlas("brain.zarr")
record = atlas.tables[0].uns("stanmf")
print(f"rank kept: {record['rank']}, planted: 6")
keep(an.pl.instability(record), "stanmf_instability.png")

# %% [markdown]
# ![Instability by number of patterns](pictures/stanmf_instability.png)
#
# Read the curve before you believe its minimum. One that only rises says that structure has several scales;
# then the rank is a matter of how much detail is wanted.
#
# ## What the patterns look like
#
# A volume is seen along its three axes; a pixel shows the largest value behind it.

# %%
keep(an.pl.projections(atlas, "stanmf", patterns=[0, 1, 2], panel_width=1.5), "stanmf_projections.png")

# %% [markdown]
# ![Three patterns along three axes](pictures/stanmf_projections.png)
#
# ## Which regions they are
#
# Every pattern is compared with every region of every level, then with unions of regions that touch.

# %%
links = an.tl.link_regions("brain.zarr", "stanmf", overwrite=True)
print(links.best())
keep(an.pl.region_bubbles("brain.zarr", "stanmf"), "stanmf_regions.png")

# %% [markdown]
# ![Patterns and their regions](pictures/stanmf_regions.png)
#
# ## Which genes, and how they go together
#
# A gene's main pattern is the one that takes the largest share of it. Networks join the most important genes
# of a pattern whose reconstructions correlate most.

# %%
an.tl.markers("brain.zarr", "stanmf", overwrite=True)
an.tl.gene_networks("brain.zarr", "stanmf", n_top=8, overwrite=True)
keep(an.pl.marker_heatmap("brain.zarr", "stanmf", n_top=4), "stanmf_markers.png")
keep(an.pl.gene_networks("brain.zarr", "stanmf", patterns=[0, 1], panel_width=2.6), "stanmf_networks.png")

# %% [markdown]
# ![What genes give to the patterns](pictures/stanmf_markers.png)
#
# ![Networks of two patterns](pictures/stanmf_networks.png)
#
# ## How good they are
#
# How much of each gene is reconstructed, and how smooth the patterns are in space, beside as many patterns by
# PCA and by clustering.

# %%
correlation = an.tl.reconstruction("brain.zarr", "stanmf", overwrite=True)
print(f"correlation of a gene with its reconstruction, median: {correlation.median():.2f}")
an.tl.comparisons("brain.zarr", "stanmf", overwrite=True)
for key in ("stanmf", "comparison_pca", "comparison_pca_kmeans"):
    smoothness = an.tl.morans_i("brain.zarr", key, overwrite=True)
    print(f"Moran's I of {key}, mean: {smoothness.mean():.2f}")

# %% [markdown]
# ## Is it right?

# %%
found, planted = atlas.tables[0].obsm("stanmf_patterns"), atlas.tables[0].obsm("true_patterns")
match = an.metrics.matched_correlation(found, planted)
print(f"correlation with the planted patterns, mean of the pairs: {match.mean:.2f}")
assert match.mean > 0.75

# %% [markdown]
# The same on the command line, and the page with all of it:
#
# ```console
# $ atlasnmf fit stanmf brain.zarr --ranks 3-9 --replicates 10 --memory-budget 2GB
# $ atlasnmf report brain.zarr -o report.html
# ```
#
# Next: [the mathematics](../models/stanmf.md), [patterns](../howto/patterns.md), [volumes and
# regions](../howto/volumes.md).
