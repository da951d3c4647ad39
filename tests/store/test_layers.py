from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from atlasnmf.store.atlas import open_atlas
from atlasnmf.store.layers import layers_of_counts


@pytest.mark.parametrize("in_memory", [True, False])
def test_layers_of_whole_numbers_are_found_whatever_their_layout(stores, new_table, in_memory):
    table = new_table(30)
    counts = scipy.sparse.csr_matrix(table.X)
    table.layers["rows"] = counts
    table.layers["columns"] = scipy.sparse.csc_matrix(counts)
    table.layers["dense"] = np.asarray(counts.todense(), np.float64)
    table.layers["logarithms"] = counts.log1p()
    table.layers["scaled"] = np.asarray(counts.todense()) - 3
    atlas = open_atlas(table if in_memory else stores.plain(table), layer="dense")
    assert layers_of_counts(atlas.tables[0]) == ["columns", "rows"]
