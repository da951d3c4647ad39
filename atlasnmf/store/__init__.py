"""The user's store, the working copy, and the way results go back."""

# Imported here and not on demand: `ingest` is a function and a module, and the function must win the name.
from atlasnmf.store.atlas import Atlas, open_atlas
from atlasnmf.store.ingest import ingest

__all__ = ["Atlas", "ingest", "open_atlas"]
