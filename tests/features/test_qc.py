"""One pass finds what is wrong with the counts, and sums them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from atlasnmf.errors import BadInput
from atlasnmf.features.qc import refuse_bad_counts, survey
from tests.features.sources import random_counts, source_of

SPOTS = [f"spot{i}" for i in range(300)]
GENES = [f"gene{i}" for i in range(40)]


@settings(deadline=None)  # the first call compiles
@given(
    min_genes=st.integers(0, 20),
    tile_rows=st.integers(7, 400),
    n_workers=st.integers(1, 3),
    mixed=st.booleans(),
)
def test_sums_are_those_of_the_dense_matrix(
    min_genes: int, tile_rows: int, n_workers: int, mixed: bool
) -> None:
    counts = random_counts(300, 40)
    codes = np.random.default_rng(1).integers(-1, 3, 300) if mixed else np.repeat([0, 1, 2], 100)
    use = np.arange(40) % 7 != 0
    source = source_of(counts)
    found = survey(
        source,
        codes,
        n_slices=3,
        n_cols=40,
        use=use,
        min_genes=min_genes,
        tile_rows=tile_rows,
        n_workers=n_workers,
    )
    assert source.n_read == 300  # once
    used = counts * use
    np.testing.assert_array_equal(found.totals, used.sum(axis=1))
    np.testing.assert_array_equal(found.n_genes, (used > 0).sum(axis=1))
    kept = (codes >= 0) & ((used > 0).sum(axis=1) >= min_genes)
    np.testing.assert_array_equal(found.kept, kept)
    for index in range(3):
        own = used[kept & (codes == index)].astype(float)
        assert found.n_spots[index] == len(own)
        np.testing.assert_array_equal(found.sums[index], own.sum(axis=0))
        np.testing.assert_array_equal(found.squares[index], (own**2).sum(axis=0))
        np.testing.assert_array_equal(found.gene_n_spots[index], (own > 0).sum(axis=0))
    refuse_bad_counts(found.check, where="table 't'", spots=SPOTS, genes=GENES)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            -3.0,
            r"table 't' holds 2 values of \d+ that are negative \(first: -3 in spot 'spot17', gene 'gene4'\)",
        ),
        (np.nan, "NaN or infinite .first: nan in spot 'spot17'"),
        (np.inf, "NaN or infinite"),
        (0.5, "not whole .first: 0.5 in spot 'spot17', gene 'gene4'.; .*use --layer counts or raw"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_values_that_are_no_counts_are_refused(value: float, message: str) -> None:
    counts = random_counts(300, 40)
    counts[17, 4] = counts[210, 3] = value
    found = survey(source_of(counts), np.zeros(300, int), n_slices=1, n_cols=40, tile_rows=64, n_workers=2)
    with pytest.raises(BadInput, match=message) as error:
        refuse_bad_counts(
            found.check, where="table 't'", spots=SPOTS, genes=GENES, count_layers=("counts", "raw")
        )
    assert "\n" not in str(error.value)
    if value == 0.5:
        with pytest.raises(BadInput, match=r"no layer holds them either; .* adata\.raw"):
            refuse_bad_counts(found.check, where="t", spots=SPOTS, genes=GENES)
        refuse_bad_counts(found.check, where="t", spots=SPOTS, genes=GENES, integer=False)


def test_spots_without_counts_are_kept_unless_genes_are_asked_for() -> None:
    counts = sp.csr_matrix((3, 40), dtype=np.float32)
    assert survey(source_of(counts), np.zeros(3, int), n_slices=2, n_cols=40).n_spots.tolist() == [3, 0]
    assert not survey(source_of(counts), np.zeros(3, int), n_slices=1, n_cols=40, min_genes=1).kept.any()
