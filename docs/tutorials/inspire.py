# %% [markdown]
# # INSPIRE: one embedding and one set of factors for all slices
#
# Four slices of an embryo that grows from one to the next. They differ in size, in depth and by effects of
# their own, and two organs are in some of the slices only. We look for factors that are the same tissue in
# every slice.
#
# Everything on this page is run by `python docs/tutorials/inspire.py` in an empty folder. The data are
# simulated, so that what is found can be held against what was put in; with data of your own, start at
# `open_atlas`.

# %%
from pathlib import Path

import matplotlib
import numpy as np

import atlasnmf as an
from atlasnmf.plots.report import write_report

matplotlib.use("Agg")
pictures = Path("pictures")
pictures.mkdir(exist_ok=True)


def keep(axes, name, dpi=80):
    """Save the figure of some axes as a small picture."""
    figure = np.ravel(np.asarray(axes, dtype=object))[0].figure
    figure.savefig(pictures / name, dpi=dpi, bbox_inches="tight")


an.simulate_embryo("embryo.zarr", n_spots=8000, n_slices=4, n_genes=600, n_factors=8, seed=0, overwrite=True)
atlas = an.open_atlas("embryo.zarr")
print(atlas)

# %% [markdown]
# ## Fit
#
# `prepare` is done by `fit` where it is missing: variable genes of every slice, the neighbours of every
# spot, components of the counts averaged over neighbours. `labels` names a column with known regions. They
# play no part in the fit; they are used afterwards to score the embedding, and beside it a PCA of the
# smoothed counts, which any model should beat.

# %%
fit = an.Inspire(n_factors=8, encoder="lgcn").fit(
    atlas, steps=300, memory_budget="2GB", labels="domain", overwrite=True
)
fit.write()
for name, row in (("INSPIRE", fit.quality), ("smoothed PCA", fit.quality["baseline"])):
    print(f"{name}: ARI {row['ari']:.2f}, NMI {row['nmi']:.2f}, ASW {row['asw']:.2f}")

# %% [markdown]
# The results are in the store now, in your order of rows, for every other package to read. Figures read
# them from there.
#
# ## Where factors are
#
# One row per factor, one column per slice; the colours of a row are shared, so slices can be compared.

# %%
atlas = an.open_atlas("embryo.zarr")
keep(an.pl.factors(atlas, "inspire", factors=[0, 1, 2], panel_width=1.6), "inspire_factors.png")

# %% [markdown]
# ![Three factors over four slices](pictures/inspire_factors.png)
#
# ## What they are made of
#
# The genes of a factor are not those that weigh most (these are abundant everywhere), but those that weigh
# more here than elsewhere.

# %%
keep(an.pl.loadings(atlas, "inspire", n_top=4), "inspire_loadings.png")
genes = an.tl.factor_genes("embryo.zarr", "inspire", n_top=5, overwrite=True)
print(genes[genes["factor"] == 0].to_string(index=False))

# %% [markdown]
# ![Genes that set the factors apart](pictures/inspire_loadings.png)
#
# ## Domains
#
# A mixture of Gaussians on the embedding gives every spot a domain, named alike in all slices. Shares over
# the slices show which domains grow, come and go.

# %%
an.tl.domains("embryo.zarr", "X_inspire", n_domains=9, overwrite=True)
atlas = an.open_atlas("embryo.zarr")
keep(an.pl.domains(atlas, "domains", panel_width=1.7), "inspire_domains.png")
keep(an.pl.proportions(atlas, "domains"), "inspire_proportions.png")

# %% [markdown]
# ![Domains over four slices](pictures/inspire_domains.png)
#
# ![Share of the domains in each slice](pictures/inspire_proportions.png)
#
# ## Is it right?
#
# Here we know. The simulator left the factors that made the counts in `obsm["true_factors"]`: found and
# planted ones are paired at the largest total correlation.

# %%
found = np.concatenate([table.obsm("inspire_factors") for table in atlas.tables])
planted = np.concatenate([table.obsm("true_factors") for table in atlas.tables])
known = np.isfinite(found).all(axis=1)
match = an.metrics.matched_correlation(found[known], planted[known])
print(f"correlation with the planted factors, mean of the pairs: {match.mean:.2f}")
assert match.mean > 0.75

# %% [markdown]
# ## A page to send around
#
# The report has all of this, a card per factor, on one page that opens anywhere.

# %%
print(write_report("embryo.zarr", "report.html", unit="µm"))

# %% [markdown]
# The same on the command line:
#
# ```console
# $ atlasnmf fit inspire embryo.zarr --n-factors 8 --encoder lgcn --steps 300 --labels domain
# $ atlasnmf report embryo.zarr -o report.html
# ```
#
# Next: [the mathematics](../models/inspire.md), [what to choose](../howto/fit.md), [new
# slices](../howto/new-slices.md).
