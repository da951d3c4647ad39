# %% [markdown]
# # SIID: impute a panel, deconvolve spots
#
# Two slices of one tissue: cells with a panel of 200 genes, and spots of several cells with 500 genes.
# Fitted together, the cells learn the genes their panel lacks, and the spots learn what they are made of.
#
# Everything on this page is run by `python docs/tutorials/siid.py` in an empty folder.

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


an.simulate_pair(
    "pair.zarr", n_cells=6000, n_genes=500, n_panel=200, grid=8, n_types=6, seed=0, overwrite=True
)
atlas = an.open_atlas("pair.zarr")
print(atlas)

# %% [markdown]
# ## Fit, and hide some genes
#
# `holdout=0.1` hides a tenth of the panel from the fit and then scores what is imputed for it, beside four
# ways to impute without a model. Do this first on every pair of your own: whether imputation works is a
# property of the pair. Proportions need cells that decide between factors: `preset="deconvolution"`.

# %%
fit = an.Siid(preset="deconvolution", fine="xenium", coarse="visium", n_factors=6, holdout="0.1").fit(
    atlas, memory_budget="2GB", overwrite=True
)
fit.write()
best = max(fit.quality["baselines"].values())
print(f"R2 of the hidden genes: {fit.quality['r2']:.3f}; best without a model: {best:.3f}")
assert fit.quality["r2"] > best
atlas = an.open_atlas("pair.zarr")
keep(an.pl.holdout(atlas), "siid_holdout.png")

# %% [markdown]
# ![R2 of hidden genes by their counts](pictures/siid_holdout.png)
#
# Genes with few counts cannot score high, whatever is done: their noise is not to be imputed.
#
# ## Genes the panel lacks
#
# Imputed genes follow from factors and loadings. They need not be stored, and nothing is computed before it
# is read.

# %%
fine, coarse = atlas.table("xenium"), atlas.table("visium")
panel = set(map(str, fine.var_names()))
hidden = [str(gene) for gene in fine.uns("siid")["holdout"]["gene"][:1]]
lacking = [str(gene) for gene in coarse.var_names() if str(gene) not in panel][:1]
print("measured in the cells:", hidden, "not measured:", lacking)
keep(an.pl.imputed(atlas, [*hidden, *lacking], panel_width=2.2), "siid_imputed.png")

# %% [markdown]
# ![A gene measured and imputed, and one imputed only](pictures/siid_imputed.png)
#
# ## What spots are made of
#
# Factors against the known types of the cells, and the shares of factors in the spots.

# %%
keep(an.pl.factor_types(atlas, "cell_type"), "siid_types.png")
keep(an.pl.factors(atlas, "siid_proportions", factors=[0, 1], panel_width=2.0), "siid_proportions.png")

# %% [markdown]
# ![Factors against cell types](pictures/siid_types.png)
#
# ![Two factors in the spots](pictures/siid_proportions.png)
#
# ## Is it right?

# %%
found, planted = coarse.obsm("siid_proportions"), coarse.obsm("true_proportions")
known = np.isfinite(found).all(axis=1)
match = an.metrics.matched_correlation(found[known], planted[known])
print(f"correlation with the true proportions, mean of the types: {match.mean:.2f}")
assert match.mean > 0.75

# %% [markdown]
# The same on the command line, and the page with all of it:
#
# ```console
# $ atlasnmf fit siid pair.zarr --fine xenium --coarse visium --preset deconvolution --holdout 0.1
# $ atlasnmf report pair.zarr -o report.html
# ```
#
# Next: [the mathematics](../models/siid.md), [pairs](../howto/pairs.md) with frames that do not fit, and
# what was measured.
